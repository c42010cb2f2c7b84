"""`charladder train`: new, resumed, extended and damaged runs."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from safetensors.torch import load_file

from charladder.cli import run_setup
from charladder.cli.main import main
from charladder.objective.cross_entropy_kernels import describe_operations
from charladder.run import open_run, run_lock
from charladder.training.best_weights import BestWeights, save_best
from charladder.training.metrics import read_metrics
from helpers import COMMAND_WITH_SLOW_STEPS, assert_same_tensors, edit_config

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--training.log-every", "1"]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_charladder(*arguments: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "charladder", *arguments], capture_output=True, timeout=120, check=False, **settings
    )


def test_train_then_evaluate_then_generate(workdir, text_file, capsys):
    assert main(["train", str(text_file), "--steps", "6", *TINY, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) >= {"run", "steps", "seconds", "characters_per_second", "valid_bits_per_character"}
    assert result["peak_memory_bytes"] > 1 << 20
    assert (result["run"], result["steps"]) == ("runs/ladder-1", 6)
    files = {path.name for path in Path("runs/ladder-1").iterdir()}
    assert files >= {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "model.safetensors",
        "heads.safetensors",
        "curves.png",
    }
    assert Path("runs/ladder-1/curves.png").read_bytes()[1:4] == b"PNG"

    assert main(["evaluate", "runs/ladder-1", "--split", "valid", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["bits_per_character"] == result["valid_bits_per_character"]
    assert set(score) >= {"characters", "context", "stride", "split", "corpus_sha256", "seconds"}
    assert (score["context"], score["stride"], score["split"]) == (16, 8, "valid")
    assert score["characters"] == int(0.05 * text_file.stat().st_size)
    assert score["bits_per_unicode_character"] == pytest.approx(score["bits_per_character"])

    assert main(["evaluate", "runs/ladder-1", str(text_file), "--limit", "50", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert (score["split"], score["characters"]) == ("all", 50)

    assert main(["generate", "runs/ladder-1", "--prompt", "The ", "--length", "30", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["characters"] == 30
    assert set(written) == {
        "text", "ids", "characters", "seconds", "characters_per_second", "draft", "accepted_per_pass", "finish",
        "milliseconds_per_pass",
    }  # fmt: skip
    assert main(["generate", "runs/ladder-1", "--prompt", "The ", "--length", "30", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == written["text"]

    assert main(["inspect", "runs/ladder-1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layers"], facts["width"], facts["context"]) == (2, 16, 16)


@pytest.mark.slow
def test_sprint_trains_resumes_evaluates_and_generates(workdir, text_file, capsys):
    arguments = ["train", str(text_file), "--recipe", "sprint", "--model.ngram-rows", "500", *TINY, "--json"]
    assert main([*arguments, "--steps", "4", "--run", "run"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert main(["train", "--resume", "run", "--extend", "--steps", "6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 6
    assert main(["evaluate", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_character"] < result["valid_bits_per_character"] + 0.1
    assert main(["generate", "run", "--prompt", "The ", "--length", "40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["characters"] == 40
    network = open_run(Path("run")).load_network()
    assert network.ngrams is not None and network.ngrams.tables[0].weight.any()


def test_contents_of_the_run_directory(workdir, text_file, capsys):
    assert main(["train", str(text_file), "--steps", "4", *TINY, "--run", "one", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "charladder generate one" in out
    assert out.rstrip().splitlines()[-1].startswith("valid: ")
    config = tomllib.loads(Path("one/config.toml").read_text())
    assert config["format_version"] == 2
    assert config["training"]["seed"] == 3
    assert config["text"]["data"] == [str(text_file)]
    environment = json.loads(Path("one/environment.json").read_text())
    assert environment["data"]["sha256"] == config["text"]["sha256"]
    assert set(environment["versions"]) >= {"torch", "numpy", "charladder"}
    lines = read_metrics(Path("one/metrics.jsonl"))
    first = next(line for line in lines if "terms" in line)
    assert set(first["terms"]) == {"layer1.target1", "layer1.target2", "main", "layer2.target2"}
    assert set(first) >= {"step", "progress", "characters", "seconds", "learning_rate", "gradient_norm", "total"}
    assert first["total"] == pytest.approx(sum(term["share"] for term in first["terms"].values()))
    assert lines[-1]["split"] == "valid"
    network = load_file("one/model.safetensors")
    assert not any("layer" in name for name in network)
    assert set(load_file("one/heads.safetensors")) == {
        f"heads.{name}.weight" for name in ("layer1_target1", "layer1_target2", "layer2_target2")
    }


def test_letters_are_saved_with_the_run(workdir, text_file, capsys):
    assert main(["train", str(text_file), "--steps", "3", *TINY, "--run", "one", "--text.alphabet", "letters"]) == 0
    run = open_run(Path("one"))
    assert run.alphabet.size == len(set(text_file.read_text()))
    assert main(["generate", "one", "--length", "20"]) == 0
    assert main(["generate", "one", "--prompt", "ü"]) == 2
    assert "'ü' at position 0" in capsys.readouterr().err


def test_resume_keeps_a_finished_run_and_extend_changes_the_budget(workdir, text_file, capsys):
    assert main(["train", str(text_file), "--steps", "6", *TINY, "--run", "whole"]) == 0
    before = Path("whole/metrics.jsonl").read_text()
    assert main(["train", "--resume", "whole"]) == 0
    assert Path("whole/metrics.jsonl").read_text() == before
    assert main(["train", "--resume", "whole", "--extend", "--steps", "8"]) == 0
    assert open_run(Path("whole")).recipe.training.steps == 8
    lines = [line for line in read_metrics(Path("whole/metrics.jsonl")) if "terms" in line]
    assert [line["step"] for line in lines] == list(range(1, 9))


@pytest.mark.parametrize("arguments", [[], ["--extend", "--steps", "9"]])
@pytest.mark.parametrize(
    "weights_file", ["model.safetensors", pytest.param("best.safetensors", marks=pytest.mark.slow)]
)
def test_trained_run_without_checkpoints_is_refused_and_unchanged(workdir, text_file, capsys, arguments, weights_file):
    assert main(["train", str(text_file), "--steps", "6", *TINY, "--run", "one"]) == 0
    shutil.rmtree("one/checkpoints")
    Path("one/heads.safetensors").unlink()
    Path("one/model.safetensors").rename(f"one/{weights_file}")
    before = {path: path.read_bytes() for path in Path("one").iterdir() if path.name != ".lock"}
    capsys.readouterr()
    assert main(["train", "--resume", "one", *arguments]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"one has {weights_file} but no checkpoint" in sentence
    assert "restore one/checkpoints, or start a new run" in sentence
    assert {path: path.read_bytes() for path in Path("one").iterdir() if path.name != ".lock"} == before


@pytest.mark.slow
@pytest.mark.parametrize("best", [True, False])
def test_run_killed_before_its_first_checkpoint_restarts(workdir, text_file, best, capsys):
    assert main(["train", str(text_file), "--steps", "6", *TINY, "--run", "whole"]) == 0
    shutil.copytree("whole", "cut")
    shutil.rmtree("cut/checkpoints/6")
    for name in ("model.safetensors", "heads.safetensors"):
        Path("cut", name).unlink()
    if best:  # a validation came before the kill
        save_best(Path("cut"), {}, {}, BestWeights(3, 1.0))
    capsys.readouterr()
    assert main(["train", "--resume", "cut"]) == 0
    assert "cut ended before its first checkpoint, so its training begins again at step 1" in capsys.readouterr().err
    assert not Path("cut/best.safetensors").exists(), "the best weights of the abandoned start are removed"
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


@pytest.mark.slow
def test_extend_reports_jumps_of_the_learning_rate_and_the_losses(workdir, text_file, capsys):
    def rates() -> dict[int, float]:
        return {
            line["step"]: line["learning_rate"] for line in read_metrics(Path("one/metrics.jsonl")) if "terms" in line
        }

    assert main(["train", str(text_file), "--steps", "6", *TINY, "--run", "one"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "one"]) == 0
    assert "note:" not in capsys.readouterr().err
    assert main(["train", "--resume", "one", "--extend", "--steps", "8"]) == 0
    err = capsys.readouterr().err
    assert "of the new budget 75.0% is spent, and of the old one 100.0% was" in err
    assert f"the learning rate goes from 0 to {rates()[7]:.3g}\n" in err
    assert main(["train", "--resume", "one", "--extend", "--steps", "40"]) == 0
    err = capsys.readouterr().err
    assert (
        "20.0% is spent" in err
        and f"from 0 to {rates()[9]:.3g}, and layer1.target1 and layer1.target2 contribute" in err
    )
    assert "to the loss again" in err


@pytest.mark.slow
def test_ctrl_c_saves_the_run_and_the_resumed_run_is_the_same(workdir, text_file):
    arguments = ["train", str(text_file), "--steps", "300", *TINY, "--training.optimizer", "adamw"]
    assert main([*arguments, "--run", "whole"]) == 0
    process = subprocess.Popen(
        [*COMMAND_WITH_SLOW_STEPS, *arguments, "--run", "cut"], stdout=subprocess.PIPE, text=True
    )
    metrics = Path("cut/metrics.jsonl")
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count("\n") > 20):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "continue with: charladder train --resume cut" in out
    (checkpoint,) = Path("cut/checkpoints").iterdir()
    assert 20 <= int(checkpoint.name) < 300
    assert main(["train", "--resume", "cut"]) == 0
    for name in ("model.safetensors", "heads.safetensors"):
        assert_same_tensors(Path("cut", name), Path("whole", name))


def test_non_finite_loss_exits_with_code_one_and_keeps_the_checkpoint(workdir, text_file):
    arguments = ["--training.optimizer", "momentum", "--training.learning-rate", "1e25", "--training.clip", "0"]
    slow = ["--training.warmup", "0.5", "--training.checkpoint-seconds", "0.0001"]
    result = run_charladder("train", str(text_file), "--steps", "60", *TINY, "--run", "one", *arguments, *slow)
    assert result.returncode == 1
    assert b"not finite" in result.stderr or b"gradient's norm" in result.stderr
    assert b"Traceback" not in result.stderr
    assert any(Path("one/checkpoints").iterdir())


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param(one, marks=pytest.mark.slow)
        for one in ({"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, {"NO_COLOR": "1"})
    ],
)
def test_piped_output_is_plain(workdir, text_file, variables):
    result = run_charladder(
        "train", str(text_file), "--steps", "3", *TINY, "--run", "one", env={**os.environ, **variables}
    )
    assert result.returncode == 0
    assert b"\x1b" not in result.stdout
    assert b"Traceback" not in result.stderr
    assert b"bits/char" in result.stdout
    if "PYTHONIOENCODING" in variables:
        assert result.stdout.isascii()


@pytest.mark.slow
def test_closed_pipe_is_no_error(workdir, text_file):
    assert main(["train", str(text_file), "--steps", "3", *TINY, "--run", "one"]) == 0
    command = f"{shlex.quote(sys.executable)} -m charladder generate one --length 300 --prompt ladder | head -c 5"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (0, b"ladde")
    assert b"Traceback" not in result.stderr
    assert b"Exception" not in result.stderr


def test_run_is_locked_during_training(workdir, text_file, capsys):
    assert main(["train", str(text_file), "--steps", "3", *TINY, "--run", "one"]) == 0
    with run_lock(Path("one")):
        result = run_charladder("train", "--resume", "one", "--extend", "--steps", "5")
    assert result.returncode == 2
    assert b"one is being trained by another process" in result.stderr
    assert main(["train", "--resume", "one", "--extend", "--steps", "5"]) == 0


def test_run_number_taken_by_another_process_is_skipped(workdir, text_file, capsys, monkeypatch):
    """Another process creates the directory between the choice of its number and its creation."""
    check, other = run_setup.check_memory, Path("runs/ladder-1")

    def check_slowly(*options):
        (other / "checkpoints").mkdir(parents=True)
        (other / "config.toml").write_text("another")
        check(*options)

    monkeypatch.setattr(run_setup, "check_memory", check_slowly)
    assert main(["train", str(text_file), "--steps", "2", *TINY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "runs/ladder-2"
    assert (other / "config.toml").read_text() == "another"
    assert {path.name for path in other.iterdir()} == {"checkpoints", "config.toml"}
    assert {path.name for path in Path("runs").iterdir()} == {"ladder-1", "ladder-2"}


def test_run_number_of_a_broken_symlink_is_skipped(workdir, text_file, capsys):
    Path("runs").mkdir()
    Path("runs/ladder-1").symlink_to("nowhere")
    assert main(["train", str(text_file), "--steps", "2", *TINY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "runs/ladder-2"


@pytest.mark.slow
def test_three_concurrent_commands_create_three_runs(workdir, text_file):
    arguments = [sys.executable, "-m", "charladder", "train", str(text_file), "--steps", "2", *TINY]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate(timeout=300)[1] for process in processes] == [b""] * 3
    assert [process.returncode for process in processes] == [0] * 3
    assert {path.name for path in Path("runs").iterdir()} == {"ladder-1", "ladder-2", "ladder-3"}
    assert all(Path(f"runs/ladder-{n}/model.safetensors").is_file() for n in (1, 2, 3))


DAMAGES = ("{", "[]", "3", '{"step": "x"}', '{"step": 1, "terms": 1}', '{"a": 1}')


@pytest.mark.parametrize("damage", ["\0\0\0", *(pytest.param(one, marks=pytest.mark.slow) for one in DAMAGES)])
def test_damaged_line_of_metrics_does_not_affect_other_lines(workdir, text_file, damage):
    assert main(["train", str(text_file), "--steps", "3", *TINY, "--run", "one"]) == 0
    metrics = Path("one/metrics.jsonl")
    before = read_metrics(metrics)
    metrics.write_text(damage + "\n" + metrics.read_text() + damage)
    assert main(["train", "--resume", "one", "--extend", "--steps", "4"]) == 0
    assert read_metrics(metrics)[: len(before) - 1] == before[:-1]


@pytest.mark.slow
def test_smaller_budget_error_says_how_to_finish_the_run(workdir, text_file, capsys):
    assert main(["train", str(text_file), "--steps", "4", *TINY, "--run", "one"]) == 0
    edit_config(Path("one"), "\nsteps = 4\n", "\nsteps = 6\n")  # as if it had been killed at 4
    assert main(["train", "--resume", "one", "--extend", "--steps", "4"]) == 2
    assert "leave out --extend: charladder train --resume one continues" in capsys.readouterr().err
    assert main(["train", "--resume", "one"]) == 0
    assert main(["train", "--resume", "one", "--extend", "--steps", "5"]) == 2
    assert "leave out --extend" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("damage", [{"clock": {}}, {"clock": 3}, {"sampler": {"examples": "x"}}, {"sampler": []}])
def test_checkpoint_with_an_invalid_state_is_not_used(workdir, text_file, damage, capsys):
    assert main(["train", str(text_file), "--steps", "3", *TINY, "--run", "one"]) == 0
    state = Path("one/checkpoints/3/state.json")
    state.write_text(json.dumps({**json.loads(state.read_text()), **damage}))
    assert main(["train", "--resume", "one", "--extend", "--steps", "4"]) == 2
    assert "no checkpoint in one/checkpoints is intact" in capsys.readouterr().err


def test_resume_with_other_kernels_prints_a_note(workdir, text_file, capsys):
    tiny = "--layers", "2", "--width", "32", "--context", "16", "--batch", "2"
    assert main(["train", str(text_file), "--run", "one", "--steps", "2", *tiny]) == 0
    began = json.loads(Path("one/environment.json").read_text())
    assert began["machine"]["steps"] == describe_operations()
    capsys.readouterr()
    assert main(["train", "--resume", "one", "--extend", "--steps", "3"]) == 0
    assert "the run began with other kernels" not in "".join(capsys.readouterr())
    began["machine"]["steps"] = "C of another compiler"
    Path("one/environment.json").write_text(json.dumps(began))
    assert main(["train", "--resume", "one", "--extend", "--steps", "4"]) == 0
    assert "the run began with other kernels" in "".join(capsys.readouterr())
