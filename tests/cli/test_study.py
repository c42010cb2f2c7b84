"""`charladder study`: output, user errors and interruptions."""

import json
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from caches import new_cache
from charladder.cli.main import main
from charladder.run import open_run

PLAN = """
data = ["text"]
seeds = 1
[set]
"model.layers" = 2
"model.width" = 16
"model.context" = 16
"training.batch" = 2
"training.steps" = {steps}
"training.log_every" = 1
"training.validations" = 1
"training.device" = "cpu"
"text.valid" = 200
[arms.none]
"objective.intermediate" = false
[arms.layers]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_file: Path) -> Path:
    """A folder with a text and a plan."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Path("text").write_bytes(text_file.read_bytes())
    Path("own.toml").write_text(PLAN.format(steps=5))
    return tmp_path


@pytest.mark.slow
def test_trains_and_reports_a_plan_once(here, capsys):
    assert main(["study", "own.toml", "--jobs", "2", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    files = [f"studies/own/{name}" for name in ("report.html", "report.md", "report.csv", "summary.csv", "norms.csv")]
    assert (done["folder"], done["report"]) == ("studies/own", files)
    assert all(Path(file).stat().st_size for file in files)
    assert [run["arm"] for run in sorted(done["runs"], key=lambda run: run["arm"])] == ["layers", "none"]
    assert all(run["valid_bits_per_character"] > 0 for run in done["runs"])
    assert main(["study", "own.toml"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count("finished before") == 2
    assert out.splitlines()[-5:] == [f"report: {file}" for file in files]
    assert main(["study", "own.toml", "--report-only"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"report: {file}" for file in files]
    assert main(["study", "own.toml", "--set", "training.steps=6"]) == 2
    assert "studies/own holds another plan (its set differs)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_runs_first_and_its_choice_is_kept(here, capsys):
    sweep = '[sweep]\nseeds = [7]\n"training.learning_rate" = [0.00001, 0.01]\n'
    Path("swept.toml").write_text(PLAN.format(steps=5) + sweep)
    assert main(["study", "swept.toml", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in done["runs"]] == ["studies/swept/none-seed0", "studies/swept/layers-seed0"]
    runs = sorted(path.name for path in Path("studies/swept/sweep").iterdir() if path.is_dir())
    assert runs == [f"{arm} learning_rate={rate}-seed7" for arm in ("layers", "none") for rate in ("0.01", "1e-05")]
    assert Path("studies/swept/sweep/report.html").exists()
    arms = tomllib.loads(Path("studies/swept/plan.toml").read_text())["arms"]
    assert [fields["training.learning_rate"] for fields in arms.values()] == [0.01, 0.01]
    assert open_run(Path("studies/swept/none-seed0")).recipe.training.learning_rate == 0.01
    assert main(["study", "swept.toml"]) == 0  # nothing is trained again
    assert capsys.readouterr().out.count("finished before") == 2
    Path("swept.toml").write_text(PLAN.format(steps=5) + sweep.replace("0.01]", "0.02]"))
    assert main(["study", "swept.toml"]) == 2
    assert "studies/swept/sweep holds another plan" in capsys.readouterr().err


@pytest.mark.slow
def test_a_plan_for_a_gpu_stops_after_minutes_continues_and_reports(here, capsys):
    """The very command of the plan, on a CPU with tiny sizes."""
    sizes = ["model.layers=2", "model.width=16", "model.feed_forward=32", "model.context=16", "training.batch=2"]
    sizes += ["training.steps=30", "text.valid=200", "text.test=0", "training.log_every=1"]
    settings = [f"--set={size}" for size in sizes]
    command = ["study", "t12-scale", "text", "--device", "cpu", "--seeds", "1", "--jobs", "1", *settings]
    assert main([*command, "--stop-after", "0.02"]) == 130
    assert "stopped and saved; continue with: charladder study" in capsys.readouterr().out
    assert main([*command, "--stop-after", "60", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert len(done["runs"]) == 4 and all(run["valid_bits_per_character"] > 0 for run in done["runs"])
    assert Path("studies/t12-scale/report.md").is_file()
    assert main([*command, "--stop-after", "0.00001"]) == 0  # nothing is left to train


@pytest.mark.parametrize(("plan", "runs"), [("t12-scale", 12), ("norms-scale", 24)])
def test_plans_for_a_gpu_are_valid(here, capsys, plan, runs):
    Path("long").write_bytes(Path("text").read_bytes() * 2600)
    assert main(["study", plan, "long", "--device", "cpu", "--stop-after", "9", "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == runs


def test_dry_run_lists_the_runs_of_a_sweep(here, capsys):
    sweep = '[sweep]\nseeds = [7]\n"training.learning_rate" = [0.001, 0.01]\n'
    Path("own.toml").write_text(PLAN.format(steps=5) + sweep)
    assert main(["study", "own.toml", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "sweep, before them: 1 seeds, 4 runs" in lines
    assert "  layers: training.learning_rate = 0.001 | 0.01" in lines
    assert "studies/own/sweep/layers learning_rate=0.01-seed7" in lines
    assert main(["study", "own.toml", "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sweep"]) == 4
    assert main(["study", "own.toml", "--dry-run", "--set", "training.learning_rate=0.1"]) == 2
    assert "tunes training.learning_rate, which [set] or --set sets" in capsys.readouterr().err
    assert main(["study", "own.toml", "--dry-run", "--seeds", "8"]) == 2
    assert "has the seed 7, which is one of the plan's seeds" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["study", "ablate"])
def test_dry_run_trains_nothing(here, capsys, command):
    assert main([command, "own.toml", "--dry-run", "--seeds", "2", "--set", "objective.targets=3"]) == 0
    out = capsys.readouterr().out
    assert "own: 2 arms, 2 seeds, 4 runs" in out
    assert "none (baseline): objective.intermediate = false" in out
    assert "studies/own/layers-seed1" in out
    assert main(["study", "own.toml", "--dry-run", "--json", "--out", "there"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == ["there/none-seed0", "there/layers-seed0"]
    Path("long").write_bytes(Path("text").read_bytes() * 30)
    assert main(["study", "paper", "long", "--dry-run"]) == 0
    assert not Path("studies").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PLAN"),
        (["own"], "there is no plan called 'own'"),
        (["own.toml", "--jobs", "0"], "--jobs is '0'; it must be a whole number"),
        (["own.toml", "--seeds", "many"], "--seeds is 'many'"),
        (["own.toml", "--seed", "3"], "has no option --seed; did you mean --seeds?"),
        (["own.toml", "--set", "model.width"], "--set model.width has no value"),
        (["own.toml", "--set", "model.widht=3"], "did you mean model.width?"),
        (["own.toml", "--set", "training.lr=1"], "did you mean training.learning_rate?"),
        (["own.toml", "--set", "model.width=wide"], "model.width is 'wide'; it must be a whole number"),
        (["own.toml", "--set", "objective.intermediate=false"], "duplicate runs"),
        (["own.toml", "--set", "training.characters=5"], "fewer than one step"),
        *(
            (["own.toml", "--stop-after", minutes], f"--stop-after is '{minutes}'; it must be a number of minutes")
            for minutes in ("0", "-1", "nan", "inf", "soon", "")
        ),
        (["own.toml", "--device", "tpu"], "--device is 'tpu'; use auto, cpu, cuda"),
        (["own.toml", "--report-only"], "has no plan.toml"),
        (["own.toml", "-"], "standard input"),
        (["own.toml", "gone"], "no file or corpus called 'gone'"),
        (["own.toml", "--set", "text.test=3979", "--set", "text.valid=10"], "needs 18 characters"),
    ],
)
def test_user_errors_are_one_sentence(here, capsys, arguments, message):
    if "objective.intermediate=false" in arguments:
        Path("own.toml").write_text(PLAN.format(steps=5).replace('"objective.intermediate" = false', ""))
    for dry_run in ([], ["--dry-run"]):
        if dry_run and "--report-only" in arguments:
            continue
        assert main(["study", *arguments, *dry_run]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
        assert not Path("studies").exists()


def test_dry_run_notes_texts_that_would_be_downloaded(here, capsys, monkeypatch):
    """The dry run downloads nothing, and checks that all other texts exist."""
    monkeypatch.setenv("CHARLADDER_CACHE", new_cache(here / "cache"))
    url = "http://127.0.0.1:9/book.txt"
    assert main(["study", "own.toml", "text", "text8", url, "--dry-run"]) == 0
    assert f"note: text8, {url} is not in the cache and would be downloaded" in capsys.readouterr().err
    assert main(["study", "own.toml", "gone", "text8", "--dry-run"]) == 2
    assert "no file or corpus called 'gone'" in capsys.readouterr().err
    assert not list((here / "cache").glob("downloads/*"))


def test_dry_run_refuses_a_directory_with_other_contents(here, capsys):
    Path("there/none-seed0").mkdir(parents=True)
    assert main(["study", "own.toml", "--dry-run", "--out", "there"]) == 2
    assert "there/none-seed0 is not a run directory" in capsys.readouterr().err
    assert main(["study", "own.toml", "--dry-run", "--out", "text"]) == 2
    assert "text is a file, and a study needs a folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_the_runs_and_the_output_has_the_command_to_continue(here, number):
    Path("own.toml").write_text(PLAN.format(steps=100000))
    command = [sys.executable, "-m", "charladder", "study", "own.toml", "--jobs", "2"]
    if number == signal.SIGTERM:  # as in the background of a shell, where SIGINT is ignored
        command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = [Path("studies/own", f"{arm}-seed0", "metrics.jsonl") for arm in ("none", "layers")]
    deadline = time.monotonic() + 240
    while not all(path.exists() and path.stat().st_size for path in metrics):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert out.splitlines()[-1] == "stopped and saved; continue with: charladder study own.toml --jobs 2"
    for path in metrics:
        assert any((path.parent / "checkpoints").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stops the runs")
@pytest.mark.slow
def test_runs_stop_when_the_parent_is_killed(here):
    Path("own.toml").write_text(PLAN.format(steps=100000))
    command = [sys.executable, "-m", "charladder", "study", "own.toml"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log, deadline = Path("studies/own/none-seed0/metrics.jsonl"), time.monotonic() + 240
    while not (log.exists() and log.stat().st_size):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while not any(log.with_name("checkpoints").glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)
    size = log.stat().st_size
    time.sleep(0.5)
    assert log.stat().st_size == size
