# Sourced by demo, test and check: makes .venv with the pinned versions of constraints.txt, once.
# Honours PYTHON (which interpreter) and pip's own settings (indexes, find-links, proxies).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "charladder needs Python 3.11 or newer; set PYTHON to one (this is: $("$python" --version 2>&1))" >&2
    exit 2
fi

prepare() { # prepare EXTRAS: an up-to-date .venv with these extras
    local extras=$1 stamp=.venv/installed-$1 wanted torch
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    if .venv/bin/python -m pip --version >/dev/null 2>&1 && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        # The pinned torch, where the interpreter already has it, is reused: it is most of the download.
        torch=$(sed -n 's/^torch==//p' constraints.txt)
        if "$python" -c "import sys, torch; sys.exit(torch.__version__.split('+')[0] != '$torch')" 2>/dev/null; then
            "$python" -m venv --clear --system-site-packages .venv
        else
            "$python" -m venv --clear .venv
        fi
    fi
    echo "installing charladder[$extras] into .venv (once; a minute or two, downloads aside) ..." >&2
    PIP_CONSTRAINT=constraints.txt .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --editable ".[$extras]" 1>&2
    echo "$wanted" >"$stamp"
}
