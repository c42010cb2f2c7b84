# Sourced by the other scripts. Makes .venv with the pinned versions of constraints.txt, once, or an empty environment.
# Honours PYTHON (which interpreter) and pip's own settings (indexes, find-links, proxies).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "charladder needs Python 3.11 or newer; set PYTHON to one (this is: $("$python" --version 2>&1))" >&2
    exit 2
fi
bin=bin # the folder of commands in a virtual environment
if [ "${OS:-}" = Windows_NT ]; then bin=Scripts; fi
export PIP_DISABLE_PIP_VERSION_CHECK=1

prepare() { # prepare EXTRAS: an up-to-date .venv with these extras
    local extras=$1 stamp=.venv/installed-$1 wanted torch
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    if .venv/$bin/python -m pip --version >/dev/null 2>&1 && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if ! .venv/$bin/python -m pip --version >/dev/null 2>&1; then
        # The pinned torch, where the interpreter already has it, is reused: it is most of the download.
        torch=$(sed -n 's/^torch==//p' constraints.txt)
        if "$python" -c "import sys, torch; sys.exit(torch.__version__.split('+')[0] != '$torch')" 2>/dev/null; then
            "$python" -m venv --clear --system-site-packages .venv
        else
            "$python" -m venv --clear .venv
        fi
    fi
    echo "installing charladder[$extras] into .venv (once; a minute or two, downloads aside) ..." >&2
    PIP_CONSTRAINT=constraints.txt .venv/$bin/python -m pip install --quiet --editable ".[$extras]" 1>&2
    echo "$wanted" >"$stamp"
}

empty_environment() { # sets $environment to a new virtual environment, which is removed when the script ends
    environment=$(mktemp -d)
    trap 'rm -rf "$environment"' EXIT
    "$python" -m venv "$environment"
}
