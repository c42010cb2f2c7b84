"""Places that cannot be written, streams that are not there, terminals that cannot show everything."""

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
LADDER = f"{shlex.quote(sys.executable)} -m charladder"
TRAIN = f"{LADDER} train text {' '.join(TINY)}"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CHARLADDER_NATIVE", "0")  # every test has an empty cache, and would compile the libraries again
    Path("text").write_text("a ladder has layers, größer und kleiner. " * 400)
    return tmp_path


def bash(command: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True, text=True, errors="replace", timeout=180, check=False, **settings,
    )  # fmt: skip


def sentence(done: subprocess.CompletedProcess) -> str:
    """The one line that a mistake leaves on standard error."""
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("charladder: ")
    return lines[0]


def with_small_disk(size: str, command: str) -> subprocess.CompletedProcess:
    """Runs a command with a tiny disk mounted at ./small, where nobody else sees it; what is there is put in ./left."""
    if bash("unshare -rm true").returncode:
        pytest.skip("this machine does not let a test mount a tmpfs (unshare -rm)")
    Path("small").mkdir(exist_ok=True)
    keep = "code=$?; rm -rf left; cp -r small left; exit $code"
    inside = f"mount -t tmpfs -o size={size} none small && {{ {command}; {keep}; }}"
    return bash(f"unshare -rm bash -c {shlex.quote(inside)}")


def left() -> dict[str, int]:
    return {str(path.relative_to("left")): path.stat().st_size for path in Path("left").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "size",
    ["4k", *(pytest.param(size, marks=pytest.mark.slow) for size in ("20k", "60k", "150k", "300k", "400k", "500k"))],
)
def test_a_disk_that_fills_up_under_a_run(size):
    done = with_small_disk(size, f"{TRAIN} --run small/run")
    assert done.returncode == 2
    said = sentence(done)
    assert "No space left on device" in said
    files = left()
    assert not any("part" in name for name in files), "nothing half written"
    if size == "4k":
        assert "the run directory small/run cannot be written" in said
        assert files == {}
    else:
        assert "when it can be, continue with charladder train --resume small/run" in said
        assert ("the last good checkpoint, small/run/checkpoints/4, is kept" in said) == (size == "500k")
        assert bash(f"{LADDER} train --resume left/run").returncode == 0, "and with room it goes on"
        assert bash(f"{LADDER} evaluate left/run --json").returncode == 0


@pytest.mark.parametrize("words", ["", "--alphabet letters"])
def test_a_disk_without_room_for_the_text(words):
    Path("text").write_text("a ladder has layers. " * 40_000)
    room = "500k" if not words else "1200k"
    done = with_small_disk(room, f"CHARLADDER_CACHE=small {TRAIN} {words} --run run")
    assert done.returncode == 2
    assert "there is no room left for it; free some, or set CHARLADDER_CACHE" in sentence(done)
    assert not Path("run").exists()
    assert not any(name.endswith(".part") for name in left())


@pytest.mark.parametrize("length", [True, False])
def test_a_disk_without_room_for_a_download(length):
    with serving(os.urandom(1_000_000)) as server:
        server.length = length
        done = with_small_disk("300k", f"CHARLADDER_CACHE=small {LADDER} train {server.address}/book.txt --run run")
    assert done.returncode == 2
    assert "there is no room left for it; free some, or set CHARLADDER_CACHE" in sentence(done)
    assert not any(name.endswith("book.txt") for name in left()), "no file that is not whole under its own name"
    assert not Path("run").exists()


def as_nobody_special() -> None:
    """In the child: a root that permissions bind like anybody else."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; 24 is PR_CAPBSET_DROP
            assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0


@pytest.mark.parametrize(
    ("locked", "command", "said"),
    [
        ("home", f"{TRAIN} --run home/run", "the run directory home/run cannot be made: Permission denied"),
        ("home", f"CHARLADDER_CACHE=home/cache {TRAIN}", "home/cache cannot be written: Permission denied; set CHARL"),
        ("home", f"CHARLADDER_CACHE=home/cache {LADDER} corpora text8 --download", "home/cache cannot be written"),
        ("secret", TRAIN.replace(" text ", " secret "), "secret cannot be read: Permission denied"),
        ("folder/inner", TRAIN.replace(" text ", " folder "), "folder cannot be read: Permission denied"),
        ("secret", f"{TRAIN} --recipe secret.toml", "recipe secret.toml cannot be read: Permission denied"),
    ],
)
def test_no_permission(locked, command, said):
    Path("home").mkdir()
    Path("folder/inner").mkdir(parents=True)
    for name in ("secret", "secret.toml"):
        Path(name).write_text("x" * 5000)
        Path(name).chmod(0)
    Path(locked).chmod(0o500 if locked == "home" else 0)
    done = bash(command, preexec_fn=as_nobody_special)
    Path(locked).chmod(0o700)
    assert done.returncode == 2
    assert said in sentence(done)
    assert list(Path("home").iterdir()) == []


@pytest.mark.slow
def test_weights_that_may_not_be_read():
    assert bash(f"{TRAIN} --run run").returncode == 0
    Path("run/model.safetensors").chmod(0)
    done = bash(f"{LADDER} evaluate run", preexec_fn=as_nobody_special)
    assert done.returncode == 2
    assert "run/model.safetensors cannot be read: Permission denied" in sentence(done)


@pytest.mark.slow
def test_a_run_that_may_not_be_written_any_more():
    assert bash(f"{TRAIN} --run run").returncode == 0
    files = [path for path in (Path("run"), *Path("run").rglob("*")) if path.is_dir()]
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    for path in files:
        path.chmod(0o500)
    done = bash(f"{LADDER} train --resume run --extend --steps 6", preexec_fn=as_nobody_special)
    evaluated = bash(f"{LADDER} evaluate run --json", preexec_fn=as_nobody_special)
    for path in files:
        path.chmod(0o700)
    assert done.returncode == 2
    assert "Permission denied" in sentence(done)
    assert evaluated.returncode == 0, "reading wants no permission to write"
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "command",
    [
        "inspect t64",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("generate run --length 4000", "train --help")),
    ],
)
def test_a_reader_that_leaves_at_once(command):
    if "run" in command:
        assert bash(f"{TRAIN} --run run").returncode == 0
    for reader in ("head -c 1", "true"):
        done = bash(f"{LADDER} {command} | {reader}")
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&- 2>&- <&-", ">&-", "2>&-"])
def test_closed_standard_streams(closed):
    for command in (f"{TRAIN} --run run", f"{LADDER} generate run --length 5"):
        done = bash(f"{command} {closed}")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


def test_no_standard_input():
    assert "there is no standard input to read" in sentence(bash(TRAIN.replace(" text ", " - ") + " <&-"))


@pytest.mark.parametrize("command", ["inspect t12", "corpora --json", "--help"])
def test_an_output_that_is_full(command):
    done = bash(f"{LADDER} {command} > /dev/full")
    assert done.returncode == 2
    assert "No space left on device" in sentence(done)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C"},
    ],
)
def test_a_terminal_that_cannot_show_everything(variables):
    settings = {"env": {**os.environ, **variables}}
    for command in (f"{TRAIN} --run run", f"{LADDER} generate run --prompt größer --length 20", f"{LADDER} corpora"):
        done = bash(command, **settings)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    done = bash(f"{LADDER} evaluate run größer-日本", **settings)
    assert "no file or corpus called" in sentence(done)


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, pytest.param({"TERM": "dumb"}, marks=pytest.mark.slow)])
def test_a_terminal_with_and_without_colours(variables):
    """Through a pseudo-terminal: colours and a live bar, or none with NO_COLOR."""
    code = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    words = [sys.executable, "-m", "charladder", "train", "text", *TINY, "--run", "run"]
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
        env={**plain, "TERM": "xterm-256color", "COLUMNS": "100", **variables},
    )  # fmt: skip
    assert b"bits/char" in done.stdout
    assert b"Traceback" not in done.stdout
    coloured = any(f"\x1b[{code}".encode() in done.stdout for code in ("3", "9", "38;"))
    assert coloured == (not variables)


@pytest.mark.slow
def test_json_is_alone_on_standard_output():
    done = bash(f"{TRAIN} --run run --json")
    assert json.loads(done.stdout)["steps"] == 4
    for command in ("evaluate run text", "generate run --length 9", "corpora"):
        assert isinstance(json.loads(bash(f"{LADDER} {command} --json").stdout), dict)
