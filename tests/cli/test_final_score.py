"""The score at the end of `train`: the number of characters, the printed lines, and its interruption."""

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from charladder.cli import final_score
from charladder.cli.main import main
from charladder.cli.train import make_parser
from charladder.evaluation import Score
from charladder.studies.directory import PlannedRun
from charladder.studies.plan_file import read_plan
from charladder.studies.runner import train_arguments
from charladder.training import TrainingConfig
from charladder.training.loop import read_validation_bits
from charladder.training.metrics import read_metrics
from charladder.training.schedule import RunCounters

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--training.validation-characters", "10"]
VALID = 200  # characters of the valid part of the text


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_file: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluations() -> list[dict]:
    return [line for line in read_metrics(Path("run/metrics.jsonl")) if "split" in line]


@pytest.mark.slow
def test_default_scores_a_tenth_of_the_trained_characters(workdir, text_file, capsys):
    assert main(["train", str(text_file), "--run", "run", "--steps", "12", *TINY, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["scored"]["characters"], result["scored"]["part"]) == (12 * 2 * 16 // 10, True)
    assert "scoring the first 38 of 200 characters of the valid part, about 0 s" in captured.err
    assert captured.err.index("scoring the first 38") > captured.err.index("checkpoint run")
    assert "valid: " in captured.err and "(the first 38 characters)" in captured.err
    assert "outside the budget: " in captured.err
    assert main(["evaluate", "run", "--limit", "38", "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert (
        evaluated["bits_per_character"] == result["valid_bits_per_character"] == result["scored"]["bits_per_character"]
    )
    assert (evaluated["context"], evaluated["stride"]) == (result["scored"]["context"], result["scored"]["stride"])
    *validations, last = evaluations()
    assert len(validations) == 4 and all(line["part"] and "final" not in line for line in validations)
    assert (last["part"], last["final"], last["characters"], last["step"]) == (True, True, 38, 12)

    assert main(["train", "--resume", "run"]) == 0
    assert evaluations() == [*validations, last], "resuming a finished run adds no second score"
    capsys.readouterr()
    assert main(["plot", "run", "--json"]) == 0
    (curve,) = json.loads(capsys.readouterr().out)["runs"]
    assert (curve["valid_bits_per_character"], curve["valid_characters"]) == (last["bits_per_character"], 38)


def test_validation_bits_exclude_the_final_score(workdir, text_file, capsys):
    assert main(["train", str(text_file), "--run", "run", "--steps", "12", *TINY]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert sum(" bits per character (the first 10 characters)" in line for line in printed) == 4
    lines = evaluations()
    path = Path("run/metrics.jsonl")
    path.write_text("".join(json.dumps({**line, "bits_per_character": 3.0}) + "\n" for line in lines[:-1]))
    with path.open("a") as file:
        file.write(json.dumps({**lines[-1], "bits_per_character": 1.0}) + "\n")
    assert read_validation_bits(Path("run")) == [3.0] * 4


def test_a_validation_of_the_whole_valid_part_has_no_number_of_characters(workdir, text_file, capsys):
    arguments = ["train", str(text_file), "--run", "run", "--steps", "4", *TINY, "--score", "none"]
    assert main([*arguments, "--training.validation-characters", "500"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("valid: ")]
    assert len(printed) == 3 and all(line.endswith(" bits per character") for line in printed)


@pytest.mark.slow
def test_score_option_whole_none_and_number(workdir, text_file, capsys):
    assert main(["train", str(text_file), "--run", "run", "--steps", "4", *TINY, "--score", "none", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["valid_bits_per_character"] is None and result["scored"] is None
    assert all("final" not in line and line["part"] for line in evaluations())
    for score_option, characters in (("70", 70), ("whole", VALID), ("1000", VALID)):
        assert main(["train", "--resume", "run", "--score", score_option, "--json"]) == 0
        captured = capsys.readouterr()
        scored = json.loads(captured.out)["scored"]
        assert (scored["characters"], scored["part"]) == (characters, characters < VALID)
        assert (f"scoring all {VALID} characters" in captured.err) == (characters == VALID)
    assert main(["evaluate", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_character"] == scored["bits_per_character"]
    assert [line["characters"] for line in evaluations() if "part" not in line] == [VALID]
    assert [line["characters"] for line in evaluations() if line.get("final")] == [70]


@pytest.mark.parametrize("score_option", ["0", "-1", "half", "", "1.5", "9" * 30])
def test_invalid_score_option_is_refused_before_training(workdir, text_file, capsys, score_option):
    assert main(["train", str(text_file), "--run", "run", "--steps", "4", *TINY, f"--score={score_option}"]) == 2
    assert "it must be whole, none, or a number of characters" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signal_during_the_score_reports_that_training_is_saved(
    workdir, text_file, capsys, monkeypatch: pytest.MonkeyPatch, number
):
    def score_with_signal(*arguments):
        os.kill(os.getpid(), number)
        time.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(final_score, "score_job", score_with_signal)
        assert main(["train", str(text_file), "--run", "run", "--steps", "12", *TINY]) == 130
    out = capsys.readouterr().out
    assert "training is done and saved, its score was interrupted; score it with: charladder evaluate run" in out
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["12"]
    assert main(["train", "--resume", "run"]) == 0
    assert evaluations()[-1]["final"]


def fake_trainer(trained: int, **budget) -> SimpleNamespace:
    settings = TrainingConfig(batch=1, learning_rate=1.0, **budget)
    return SimpleNamespace(settings=settings, counters=RunCounters(100, trained, 77.0))


@pytest.mark.parametrize(
    ("score_option", "budget", "trained", "speed", "expected"),
    [
        ("whole", {"steps": 9}, 10, 1.0, 5_000_000),
        (300, {"steps": 9}, 10, 1.0, 300),
        (6_000_000, {"steps": 9}, 10, 1.0, 5_000_000),
        (None, {"steps": 9}, 1_000_000, 1.0, 100_000),  # does not depend on time
        (None, {"characters": 9}, 1_000_000, 1.0, 100_000),
        (None, {"steps": 9}, 10, 1.0, 8192),
        (None, {"steps": 9}, 900_000_000, 1.0, 5_000_000),
        (None, {"minutes": 0.5}, 1_000_000, 1e6, 100_000),
        (None, {"minutes": 0.5}, 1_000_000, 20_000.0, 60_000),  # three seconds, a tenth of the thirty
        (None, {"minutes": 0.5}, 1_000_000, 10.0, 8192),  # the validation has scored so many already
    ],
)
def test_characters_to_score(score_option, budget, trained, speed, expected):
    validated = Score(1.0, 8192, 8192 / speed)
    assert (
        final_score.characters_to_score(fake_trainer(trained, **budget), score_option, 5_000_000, validated) == expected
    )


def test_a_study_in_a_folder_that_begins_with_a_dash_resumes_its_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = read_plan("paper")
    run = PlannedRun(plan.arms[0], 0, Path("-out/run"))
    for exists in (False, True):
        if exists:
            run.path.mkdir(parents=True)
        options = make_parser().parse(train_arguments(plan, run)[1:])
        assert (options.resume if exists else options.run) == "-out/run"


def test_study_runs_are_scored_on_the_whole_valid_part(tmp_path):
    plan = read_plan("paper")
    run = PlannedRun(plan.arms[0], 0, tmp_path / "run")
    assert "--score=whole" in train_arguments(plan, run)
    run.path.mkdir()
    assert "--score=whole" in train_arguments(plan, run)
