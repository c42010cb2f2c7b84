"""Random command lines, built from the real options with random values: an answer or a sentence, never a traceback."""

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
EXAMPLES = int(os.environ.get("RANDOM_COMMANDS", "100"))
SAME = not {"RANDOM_COMMANDS", "EXPLORE"} & {*os.environ}  # commands every time
SECONDS = 1.0


def options_of(command: str) -> list[str]:
    """Every option of a command, those that its help page leaves out included."""
    return sorted(load_command(command).make_parser()._option_string_actions.keys() - {"-h"})


OPTIONS = {command: options_of(command) for command in COMMANDS}
PLACES = ["text", "run", "half", "empty", "folder", "packed.gz", "python", "text8", "-", ".", "*", "t12", "own.toml"]
odd = st.text(st.characters(blacklist_characters="/", blacklist_categories=["Cs"]), max_size=12)
values = st.one_of(
    st.sampled_from(PLACES),
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
    odd,
)


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from([*COMMANDS, *COMMANDS, *COMMANDS, "train", "train", "trian", "--json"]))
    first = {"train": ["text"], "corpora": [], "inspect": ["run"]}.get(command, ["run"])
    words = draw(st.just(first) | st.just(first) | st.lists(st.sampled_from(PLACES) | odd, max_size=2))[:]
    for option in draw(st.lists(st.sampled_from(OPTIONS.get(command, ["--json"])), max_size=5)):
        words.append(option)
        if draw(st.booleans()) or "." in option:
            words.append(draw(values))
    if command == "train" and draw(st.booleans()):
        words += [*TINY, "--steps", "2"]
    return [command, *words]


@contextlib.contextmanager
def interrupting_every_second() -> Iterator[None]:
    """Sends SIGINT after a second, and again after every further second."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    # Where tests run in the background SIGINT is ignored, and a run of three minutes would take three minutes.
    answer = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGINT, answer)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "MAX_ATTEMPTS", 1)
    for name, corpus in datasets.DOWNLOADS.items():
        nowhere = datasets.Dataset(
            corpus.description, corpus.licence, "http://127.0.0.1:9/x", corpus.download_bytes, corpus.expected
        )
        monkeypatch.setitem(datasets.DOWNLOADS, name, nowhere)
    Path("text").write_text("a ladder has layers. " * 300)
    Path("empty").touch()
    Path("folder").mkdir()
    Path("packed.gz").write_bytes(b"not packed")
    Path("own.toml").write_text("[model]\nlayers = 2\n[training]\nsteps = 2\n")
    for run in ("run", "half"):
        assert main(["train", "text", *TINY, "--steps", "2", "--run", run]) == 0
    Path("half/model.safetensors").unlink()
    return tmp_path


def answer(words: list[str], err: Path) -> NoReturn:
    """Ends this process as the command line would: its exit code, and in `err` what it said."""
    code = 70
    try:
        with err.open("w") as said, Path("text").open() as text, contextlib.redirect_stdout(io.StringIO()):
            sys.stdin = text
            with contextlib.redirect_stderr(said):
                try:
                    with interrupting_every_second():
                        code = main(words)
                except SystemExit as end:
                    code = end.code or 0
                except KeyboardInterrupt:
                    code = 130  # between two of ours
                except BaseException:
                    traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 70)


def answered(words: list[str]) -> tuple[int | None, str]:
    """In a process of its own: Ctrl-C may fall where torch is between two states, and ends a process anyway."""
    err = Path("said").absolute()
    process = multiprocessing.get_context("fork").Process(target=answer, args=(words, err))
    process.start()
    process.join(300)
    process.kill()
    process.join()
    said = err.read_text()
    err.unlink()
    return process.exitcode, said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@settings(max_examples=EXAMPLES, derandomize=SAME, suppress_health_check=list(HealthCheck))
@given(words=commands())
def test_a_random_command_line_is_answered(place, words):
    os.chdir(place)
    code, said = answered(words)
    event(f"{words[0]}: {code}")
    assert code in (0, 1, 2, 130), (words, said)
    assert "Traceback" not in said
    if code == 2:
        last = said.strip().splitlines()[-1]
        assert last.startswith("charladder: "), said
        assert len(last) > len("charladder: x")
