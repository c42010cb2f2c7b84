"""Random command lines, made of the real options and random values, end without a traceback."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from charladder.cli.commands import COMMANDS, load_command
from charladder.cli.main import main
from charladder.text import datasets, download

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2"]
NUM_EXAMPLES = int(os.environ.get("RANDOM_COMMANDS", "100"))
DERANDOMIZE = not {"RANDOM_COMMANDS", "EXPLORE"} & {*os.environ}  # whether every run of the test has the same commands
INTERRUPT_SECONDS = 1.0


def option_names(command: str) -> list[str]:
    """Every option of a command, including hidden ones."""
    return sorted(load_command(command).make_parser()._option_string_actions.keys() - {"-h"})


OPTIONS = {command: option_names(command) for command in COMMANDS}
DATA_ARGUMENTS = [
    "text",
    "run",
    "half",
    "empty",
    "folder",
    "packed.gz",
    "python",
    "text8",
    "-",
    ".",
    "*",
    "t12",
    "own.toml",
]
random_names = st.text(st.characters(blacklist_characters="/", blacklist_categories=["Cs"]), max_size=12)
values = st.one_of(
    st.sampled_from(DATA_ARGUMENTS),
    st.sampled_from(["auto", "cpu", "cuda", "true", "false", "letters", "replace", "drop", "keep", "epochs", "valid"]),
    st.sampled_from(["0", "1", "2", "0.5", "-1", "nan", "inf", "-inf", "1e308", "1e-308", "9" * 30, "", " ", "0x10"]),
    st.sampled_from(
        [
            "none",
            "momentum",
            "adamw",
            "paper",
            "tables",
            "sinusoidal",
            "half",
            "latin-1",
            "utf-16",
            "http://127.0.0.1:9/",
        ]
    ),
    st.integers(1, 16).map(str),
    st.sampled_from(["1", "2", "4", "8", "0.5", "16"]),
    st.integers(-5, 300).map(str),
    st.floats(-3, 3).map(str),
    random_names,
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from([*COMMANDS, *COMMANDS, *COMMANDS, "train", "train", "trian", "--json"]))
    first = {"train": ["text"], "corpora": [], "inspect": ["run"]}.get(command, ["run"])
    arguments = draw(
        st.just(first) | st.just(first) | st.lists(st.sampled_from(DATA_ARGUMENTS) | random_names, max_size=2)
    )[:]
    for option in draw(st.lists(st.sampled_from(OPTIONS.get(command, ["--json"])), max_size=5)):
        arguments.append(option)
        if draw(st.booleans()) or "." in option:
            arguments.append(draw(values))
    if command == "train" and draw(st.booleans()):
        arguments += [*TINY, "--steps", "2"]
    return [command, *arguments]


@contextlib.contextmanager
def interrupt_every_second() -> Iterator[None]:
    """Sends SIGINT after a second, and again after every further second."""
    previous_alarm = signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    # Processes in the background ignore SIGINT, and a run of three minutes would not be interrupted.
    previous_interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, INTERRUPT_SECONDS, INTERRUPT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous_alarm)
        signal.signal(signal.SIGINT, previous_interrupt)


@pytest.fixture
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "MAX_ATTEMPTS", 1)
    for name, corpus in datasets.DOWNLOADS.items():
        unreachable = datasets.Dataset(
            corpus.description, corpus.licence, "http://127.0.0.1:9/x", corpus.download_bytes, corpus.expected
        )
        monkeypatch.setitem(datasets.DOWNLOADS, name, unreachable)
    Path("text").write_text("a ladder has layers. " * 300)
    Path("empty").touch()
    Path("folder").mkdir()
    Path("packed.gz").write_bytes(b"not packed")
    Path("own.toml").write_text("[model]\nlayers = 2\n[training]\nsteps = 2\n")
    for run in ("run", "half"):
        assert main(["train", "text", *TINY, "--steps", "2", "--run", run]) == 0
    Path("half/model.safetensors").unlink()
    return tmp_path


def run_in_child(arguments: list[str], stderr_path: Path) -> NoReturn:
    """Runs a command, writes its standard error to `stderr_path`, and ends this process with its exit code."""
    code = 70
    try:
        with stderr_path.open("w") as err, Path("text").open() as text, contextlib.redirect_stdout(io.StringIO()):
            sys.stdin = text
            with contextlib.redirect_stderr(err):
                try:
                    with interrupt_every_second():
                        code = main(arguments)
                except SystemExit as end:
                    code = end.code or 0
                except KeyboardInterrupt:
                    code = 130  # outside the handlers of `main`
                except BaseException:
                    traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 70)


def run_command(arguments: list[str]) -> tuple[int | None, str]:
    """Runs a command in a child process, because an interrupt may leave torch in an inconsistent state.

    Returns the exit code and standard error.
    """
    stderr_path = Path("stderr").absolute()
    process = multiprocessing.get_context("fork").Process(target=run_in_child, args=(arguments, stderr_path))
    process.start()
    process.join(300)
    process.kill()
    process.join()
    err = stderr_path.read_text()
    stderr_path.unlink()
    return process.exitcode, err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@settings(max_examples=NUM_EXAMPLES, derandomize=DERANDOMIZE, suppress_health_check=list(HealthCheck))
@given(arguments=command_lines())
def test_random_command_line_ends_without_a_traceback(runs_folder, arguments):
    os.chdir(runs_folder)
    code, err = run_command(arguments)
    event(f"{arguments[0]}: {code}")
    assert code in (0, 1, 2, 130), (arguments, err)
    assert "Traceback" not in err
    if code == 2:
        last = err.strip().splitlines()[-1]
        assert last.startswith("charladder: "), err
        assert len(last) > len("charladder: x")
