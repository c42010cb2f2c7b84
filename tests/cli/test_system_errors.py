"""Full disks, missing permissions, closed streams, and the encodings and colours of terminals."""

import ctypes
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from web_server import serving

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "4", "--valid", "100"]
CHARLADDER = f"{shlex.quote(sys.executable)} -m charladder"
TRAIN = f"{CHARLADDER} train text {' '.join(TINY)}"


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CHARLADDER_NATIVE", "0")  # every test has an empty cache, and would compile the libraries again
    Path("text").write_text("a ladder has layers, größer und kleiner. " * 400)
    return tmp_path


def run_bash(command: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True, text=True, errors="replace", timeout=180, check=False, **settings,
    )  # fmt: skip


def read_error(done: subprocess.CompletedProcess) -> str:
    """The single line on standard error after a user error."""
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("charladder: ")
    return lines[0]


def with_small_disk(size: str, command: str) -> subprocess.CompletedProcess:
    """Runs a command with a tmpfs at ./small, mounted for this command only; its files are copied to ./left."""
    if run_bash("unshare -rm true").returncode:
        pytest.skip("this machine does not let a test mount a tmpfs (unshare -rm)")
    Path("small").mkdir(exist_ok=True)
    keep = "code=$?; rm -rf left; cp -r small left; exit $code"
    script = f"mount -t tmpfs -o size={size} none small && {{ {command}; {keep}; }}"
    return run_bash(f"unshare -rm bash -c {shlex.quote(script)}")


def files_left() -> dict[str, int]:
    """The sizes of the files in ./left by relative path."""
    return {str(path.relative_to("left")): path.stat().st_size for path in Path("left").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "size",
    ["4k", *(pytest.param(size, marks=pytest.mark.slow) for size in ("20k", "60k", "150k", "300k", "400k", "500k"))],
)
def test_disk_full_during_training(size):
    done = with_small_disk(size, f"{TRAIN} --run small/run")
    assert done.returncode == 2
    message = read_error(done)
    assert "No space left on device" in message
    files = files_left()
    assert not any("part" in name for name in files), "no partial files"
    if size == "4k":
        assert "the run directory small/run cannot be written" in message
        assert files == {}
    else:
        assert "when it can be, continue with charladder train --resume small/run" in message
        assert ("the last good checkpoint, small/run/checkpoints/4, is kept" in message) == (size == "500k")
        assert run_bash(f"{CHARLADDER} train --resume left/run").returncode == 0, "continues when there is room"
        assert run_bash(f"{CHARLADDER} evaluate left/run --json").returncode == 0


@pytest.mark.parametrize("arguments", ["", pytest.param("--alphabet letters", marks=pytest.mark.slow)])
def test_disk_too_small_for_the_text(arguments):
    Path("text").write_text("a ladder has layers. " * 40_000)
    room = "500k" if not arguments else "1200k"
    done = with_small_disk(room, f"CHARLADDER_CACHE=small {TRAIN} {arguments} --run run")
    assert done.returncode == 2
    assert "there is no room left for it; free some, or set CHARLADDER_CACHE" in read_error(done)
    assert not Path("run").exists()
    assert not any(name.endswith(".part") for name in files_left())


@pytest.mark.parametrize("length", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_disk_too_small_for_a_download(length):
    with serving(os.urandom(1_000_000)) as server:
        server.length = length
        done = with_small_disk("300k", f"CHARLADDER_CACHE=small {CHARLADDER} train {server.address}/book.txt --run run")
    assert done.returncode == 2
    assert "there is no room left for it; free some, or set CHARLADDER_CACHE" in read_error(done)
    assert not any(name.endswith("book.txt") for name in files_left()), "no incomplete file under the final name"
    assert not Path("run").exists()


def drop_root_permissions() -> None:
    """Runs in the child process: makes file permissions apply to root too."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; 24 is PR_CAPBSET_DROP
            assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0


@pytest.mark.parametrize(
    ("locked", "command", "message"),
    [
        ("home", f"{TRAIN} --run home/run", "the run directory home/run cannot be made: Permission denied"),
        pytest.param(
            "home",
            f"CHARLADDER_CACHE=home/cache {TRAIN}",
            "home/cache cannot be written: Permission denied; set CHARL",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "home",
            f"CHARLADDER_CACHE=home/cache {CHARLADDER} corpora text8 --download",
            "home/cache cannot be written",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "secret",
            TRAIN.replace(" text ", " secret "),
            "secret cannot be read: Permission denied",
            marks=pytest.mark.slow,
        ),
        ("folder/inner", TRAIN.replace(" text ", " folder "), "folder cannot be read: Permission denied"),
        pytest.param(
            "secret",
            f"{TRAIN} --recipe secret.toml",
            "recipe secret.toml cannot be read: Permission denied",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_permission_denied(locked, command, message):
    Path("home").mkdir()
    Path("folder/inner").mkdir(parents=True)
    for name in ("secret", "secret.toml"):
        Path(name).write_text("x" * 5000)
        Path(name).chmod(0)
    Path(locked).chmod(0o500 if locked == "home" else 0)
    done = run_bash(command, preexec_fn=drop_root_permissions)
    Path(locked).chmod(0o700)
    assert done.returncode == 2
    assert message in read_error(done)
    assert list(Path("home").iterdir()) == []


@pytest.mark.slow
def test_unreadable_weights():
    assert run_bash(f"{TRAIN} --run run").returncode == 0
    Path("run/model.safetensors").chmod(0)
    done = run_bash(f"{CHARLADDER} evaluate run", preexec_fn=drop_root_permissions)
    assert done.returncode == 2
    assert "run/model.safetensors cannot be read: Permission denied" in read_error(done)


@pytest.mark.slow
def test_read_only_run_directory():
    assert run_bash(f"{TRAIN} --run run").returncode == 0
    folders = [path for path in (Path("run"), *Path("run").rglob("*")) if path.is_dir()]
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    for path in folders:
        path.chmod(0o500)
    done = run_bash(f"{CHARLADDER} train --resume run --extend --steps 6", preexec_fn=drop_root_permissions)
    evaluated = run_bash(f"{CHARLADDER} evaluate run --json", preexec_fn=drop_root_permissions)
    for path in folders:
        path.chmod(0o700)
    assert done.returncode == 2
    assert "Permission denied" in read_error(done)
    assert evaluated.returncode == 0, "reading needs no write permission"
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "command",
    [
        "inspect t64",
        *(pytest.param(command, marks=pytest.mark.slow) for command in ("generate run --length 4000", "train --help")),
    ],
)
def test_pipe_closed_by_its_reader(command):
    if "run" in command:
        assert run_bash(f"{TRAIN} --run run").returncode == 0
    for reader in ("head -c 1", "true"):
        done = run_bash(f"{CHARLADDER} {command} | {reader}")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&- 2>&- <&-", ">&-", "2>&-"])
def test_closed_standard_streams(closed):
    for command in (f"{TRAIN} --run run", f"{CHARLADDER} generate run --length 5"):
        done = run_bash(f"{command} {closed}")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


def test_closed_standard_input():
    assert "there is no standard input to read" in read_error(run_bash(TRAIN.replace(" text ", " - ") + " <&-"))


@pytest.mark.parametrize("command", [pytest.param("inspect t12", marks=pytest.mark.slow), "corpora --json", "--help"])
def test_output_to_a_full_device(command):
    done = run_bash(f"{CHARLADDER} {command} > /dev/full")
    assert done.returncode == 2
    assert "No space left on device" in read_error(done)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C"},
    ],
)
def test_terminal_with_a_limited_encoding(variables):
    settings = {"env": {**os.environ, **variables}}
    for command in (
        f"{TRAIN} --run run",
        f"{CHARLADDER} generate run --prompt größer --length 20",
        f"{CHARLADDER} corpora",
    ):
        done = run_bash(command, **settings)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    done = run_bash(f"{CHARLADDER} evaluate run größer-日本", **settings)
    assert "no file or corpus called" in read_error(done)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables", [{}, *(pytest.param(one, marks=pytest.mark.slow) for one in ({"NO_COLOR": "1"}, {"TERM": "dumb"}))]
)
def test_colours_of_a_terminal(variables):
    """Through a pseudo-terminal: colours and a live bar, or none with NO_COLOR."""
    code = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    arguments = [sys.executable, "-m", "charladder", "train", "text", *TINY, "--run", "run"]
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
        env={**plain, "TERM": "xterm-256color", "COLUMNS": "100", **variables},
    )  # fmt: skip
    assert b"bits/char" in done.stdout
    assert b"Traceback" not in done.stdout
    coloured = any(f"\x1b[{code}".encode() in done.stdout for code in ("3", "9", "38;"))
    assert coloured == (not variables)


@pytest.mark.slow
def test_standard_output_is_only_the_json():
    done = run_bash(f"{TRAIN} --run run --json")
    assert json.loads(done.stdout)["steps"] == 4
    for command in ("evaluate run text", "generate run --length 9", "corpora"):
        assert isinstance(json.loads(run_bash(f"{CHARLADDER} {command} --json").stdout), dict)
