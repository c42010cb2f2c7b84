"""--weights, --patience, and the notes of `train` on a run that ended worse than its best validation."""

import json
import math
import random
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from charladder.cli import train as cli_train
from charladder.cli.main import main
from charladder.errors import UserError
from charladder.evaluation import Score
from charladder.run import open_run
from charladder.studies.directory import PlannedRun, read_final_bits
from charladder.studies.plan import Arm, Plan
from charladder.training.best_weights import BEST_HEADS_FILE, BEST_NETWORK_FILE, BestWeights, save_best

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--training.log-every", "1"]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_file: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def runs(workdir, text_file) -> None:
    """Runs `run` and `other`; the best weights of `run` are the last ones of `other`."""
    for name, steps in (("run", "6"), ("other", "3")):
        assert main(["train", str(text_file), "--run", name, "--steps", steps, *TINY, "--score", "none"]) == 0
    other = open_run(Path("other"))
    save_best(Path("run"), other.load_network().state_dict(), other.load_objective().state_dict(), BestWeights(3, 7.5))


def test_evaluate_and_generate_read_the_best_weights(runs, capsys):
    last, best, other = (
        run_json(capsys, "evaluate", *arguments, "--by-layer")
        for arguments in (["run"], ["run", "--weights", "best"], ["other"])
    )  # fmt: skip
    assert best["bits_per_character"] == other["bits_per_character"] != last["bits_per_character"]
    assert (last["weights"], best["weights"]) == ("last", "best")
    expected = [(row["term"], row["bits_per_character"]) for row in other["by_layer"]]
    assert [(row["term"], row["bits_per_character"]) for row in best["by_layer"]] == expected
    assert max(row["last_learned"]["step"] for row in best["by_layer"]) == 3
    assert max(row["last_learned"]["step"] for row in last["by_layer"]) == 6
    arguments = ["--prompt", "The ", "--length", "60", "--draft", "none", "--log-probabilities"]
    last, best, other = (
        run_json(capsys, "generate", *run, *arguments) for run in (["run"], ["run", "--weights=best"], ["other"])
    )
    assert best["log_probabilities"] == other["log_probabilities"] != last["log_probabilities"]


def test_drafting_heads_belong_to_the_weights_they_were_fitted_to(runs, capsys):
    run_json(capsys, "refit", "run", "--weights", "best", "--steps", "1", "--batch", "1")
    assert run_json(capsys, "generate", "run", "--weights", "best", "--draft", "targets", "--length", "9")["text"]
    assert main(["generate", "run", "--draft", "targets", "--length", "9"]) == 2
    assert "another network than model.safetensors is now; `charladder refit run` makes" in capsys.readouterr().err
    run_json(capsys, "refit", "run", "--steps", "1", "--batch", "1")
    assert main(["generate", "run", "--weights", "best", "--draft", "targets", "--length", "9"]) == 2
    assert "than best.safetensors is now; `charladder refit run --weights best` makes" in capsys.readouterr().err


def test_serve_reads_the_best_weights(runs, capsys, monkeypatch):
    service = pytest.importorskip("charladder.serving.service")

    def stop(run, *_):
        raise UserError(f"{run.network_path} and {run.heads_path}")

    monkeypatch.setattr(service, "open_service", stop)
    for arguments, names in (
        (["--weights", "best"], (BEST_NETWORK_FILE, BEST_HEADS_FILE)),
        ([], ("model.safetensors", "heads.safetensors")),
    ):
        assert main(["serve", "run", "--port", "0", *arguments]) == 2
        assert f"run/{names[0]} and run/{names[1]}" in capsys.readouterr().err


@pytest.mark.slow
def test_best_weights_are_the_last_ones_without_best_files(runs, capsys):
    for name in (BEST_NETWORK_FILE, BEST_HEADS_FILE):
        Path("run", name).unlink()
    last, best = (run_json(capsys, "evaluate", "run", *arguments) for arguments in ([], ["--weights", "best"]))
    assert {**best, "seconds": 0} == {**last, "seconds": 0}


def test_run_without_validation_has_no_best_weights(workdir, text_file, capsys):
    arguments = ["train", str(text_file), "--run", "run", "--steps", "2", *TINY]
    assert main([*arguments, "--valid", "0"]) == 0
    assert main(["generate", "run", "--weights", "best"]) == 2
    assert "run has no best weights, because it was never validated" in capsys.readouterr().err


def test_best_heads_of_another_step_are_not_used(runs, capsys):
    other = open_run(Path("other"))
    save_best(
        Path("other"), other.load_network().state_dict(), other.load_objective().state_dict(), BestWeights(2, 7.0)
    )
    Path("other", BEST_HEADS_FILE).replace(Path("run", BEST_HEADS_FILE))
    assert main(["evaluate", "run", "--weights", "best", "--by-layer"]) == 2
    assert "run/best_heads.safetensors is of another step than run/best.safetensors" in capsys.readouterr().err
    assert main(["evaluate", "run", "--weights", "best"]) == 0


@pytest.fixture
def random_letters(workdir) -> str:
    """A text of random letters, which only their frequencies predict."""
    Path("letters").write_text("".join(random.Random(0).choices("aaab", k=4000)))
    return "letters"


def fake_validations(monkeypatch: pytest.MonkeyPatch, *bits: float) -> None:
    """Replaces the validations of `train`: they return these bits per character, of 200 characters, in this order."""
    remaining = iter(bits)
    monkeypatch.setattr(cli_train, "evaluate", lambda *_, **__: Score(200 * next(remaining), 200, 0.1))


def test_notes_of_a_run_that_ended_worse_than_its_best(random_letters, capsys, monkeypatch):
    fake_validations(monkeypatch, 4.0, 3.5, 3.6, 3.7, 6.25)
    result = run_json(capsys, "train", random_letters, "--run", "run", "--steps", "10", *TINY)
    assert result["best"] == {"step": 4, "bits_per_character": 3.5}
    assert result["valid_bits_per_character"] == 6.25
    text = Path(random_letters).read_text()
    counts, train, valid = Counter(text[:3600]), 3600, text[3600:3800]
    unigram = -sum(math.log2((counts[letter] + 1) / (train + 256)) for letter in valid) / len(valid)
    assert result["notes"] == [
        "the last weights have 6.250 bits per character on the text of the validations, the best ones (step 4) 3.500; "
        "--weights best uses those",
        f"6.250 bits per character are more than {unigram:.3f}, which the frequencies of single characters in the "
        "training text give (an add-one unigram model)",
    ]
    fake_validations(monkeypatch, 6.25)
    assert main(["train", "--resume", "run"]) == 0
    out = capsys.readouterr().out
    assert all(f"note: {note}" in out for note in result["notes"])
    assert "charladder generate run --weights best " in out and "charladder train --resume run --extend" in out


def test_run_that_ended_at_its_best_has_no_notes(random_letters, capsys, monkeypatch):
    fake_validations(monkeypatch, 4.0, 3.5, 3.0, 2.0, 0.5)
    result = run_json(capsys, "train", random_letters, "--run", "run", "--steps", "10", *TINY)
    assert (result["best"], result["notes"], result["ended_early"]) == (None, [], False)


@pytest.mark.slow
def test_patience(random_letters, capsys, monkeypatch):
    fake_validations(monkeypatch, 4.0, 3.5, 3.6, 3.7, 3.7)
    arguments = ["--steps", "40", "--training.validations", "9", "--patience", "2"]
    result = run_json(capsys, "train", random_letters, "--run", "run", *arguments, *TINY)
    assert (result["steps"], result["ended_early"], result["best"]["step"]) == (16, True, 8)
    assert "2 validations in a row were no better than the best one (--patience)" in result["notes"][0]
    fake_validations(monkeypatch, 3.7)
    assert main(["train", "--resume", "run"]) == 0
    assert "train --resume run --extend --patience 4" in capsys.readouterr().out
    config = Path("run/config.toml").read_bytes()
    for extra_arguments in (["--extend", "--steps", "80"], ["--extend", "--patience", "1"], ["--patience", "9"]):
        assert main(["train", "--resume", "run", *extra_arguments]) == 2
        sentence = capsys.readouterr().err
        assert ("give a larger --patience with --extend" in sentence) == ("--extend" in extra_arguments), sentence
        assert Path("run/config.toml").read_bytes() == config
    fake_validations(monkeypatch, 3.8, 3.0, 3.1, 3.2, 3.3, 3.4)
    assert main(["train", "--resume", "run", "--extend", "--patience", "4"]) == 0
    training = tomllib.loads(Path("run/config.toml").read_text())["training"]
    assert (training["patience"], training["steps"]) == (4, 40)
    assert open_run(Path("run"), "best").best_step == 24


def test_study_run_that_ended_early_is_finished(tmp_path):
    arm = Arm("one", {})
    plan = Plan("p", "", "", "ladder", ("python",), {"training.steps": 40}, (arm,), (0,), "one", ())
    run = PlannedRun(arm, 0, tmp_path)
    line = {"step": 16, "split": "valid", "trained_characters": 9, "bits_per_character": 3.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert read_final_bits(plan, run) is None
    (tmp_path / "metrics.jsonl").write_text(json.dumps({**line, "ended_early": True}) + "\n")
    assert read_final_bits(plan, run) == 3.0
