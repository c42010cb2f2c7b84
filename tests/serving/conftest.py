"""Runs to serve: `run` has the alphabet bytes and heads, `bare` no heads, `lettered` an alphabet of letters, and
`dropping` drops unknown letters."""

from pathlib import Path

import pytest

from caches import new_cache
from charladder.cli.main import main
from serving.served import serving

TINY = ["--layers", "3", "--width", "16", "--context", "16", "--batch", "4", "--steps", "12"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        Path("text").write_text("A lädder has rüngs; größer → ∑ 😀. " * 200)
        for run, extra_arguments in (
            ("run", ["--objective.targets", "3"]),
            ("bare", ["--objective.targets", "1", "--objective.intermediate", "false"]),
            ("lettered", ["--alphabet", "letters"]),
            ("dropping", ["--alphabet", "letters", "--unknown", "drop"]),
        ):
            assert main(["train", "text", *TINY, *extra_arguments, "--run", run]) == 0
    return folder


@pytest.fixture(scope="module")
def served(runs):
    with serving(runs / "run") as service:
        yield service


@pytest.fixture(scope="module")
def lettered(runs):
    with serving(runs / "lettered") as service:
        yield service
