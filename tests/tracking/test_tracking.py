"""--track: every line reaches the tracker once, and no fault of the tracker reaches training."""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from charladder.cli import tracking
from charladder.cli.main import main
from charladder.tracking import TrackedRun, TrackerProcess
from charladder.tracking.metric_values import metric_values
from charladder.tracking.tracker import make_tracker
from charladder.training.metrics import read_metrics
from helpers import assert_same_tensors

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--training.log-every", "1"]
# The four clients as far as charladder calls them: each call is a line of calls.jsonl.
RECORD = """
import json
def record(name, *values):
    with open("calls.jsonl", "a") as file:
        file.write(json.dumps([name, *values], default=str) + "\\n")
"""
WANDB = """
from record import record
class Run:
    url = None
    def log(self, values, step): record("log", step, values)
    def finish(self, exit_code): record("finish", exit_code)
def init(**settings):
    record("init", settings)
    return Run()
"""
TRACKIO = """
from record import record
def init(**settings): record("init", settings)
def log(values, step): record("log", step, values)
def finish(): record("finish")
"""
MLFLOW = """
import json, pathlib, sys, types
from record import record
entities = types.ModuleType("mlflow.entities")
entities.Metric = lambda name, value, time, step: (name, value, step)
entities.Param = lambda name, value: (name, value)
sys.modules["mlflow.entities"] = entities
__path__ = []
class MlflowClient:
    def __init__(self, tracking_uri): record("uri", tracking_uri)
    def get_experiment_by_name(self, name): return None
    def create_experiment(self, name): return "1"
    def search_runs(self, folders, text, max_results):
        if not pathlib.Path("made").exists(): return []
        info = types.SimpleNamespace(run_id="7")
        return [types.SimpleNamespace(info=info, data=types.SimpleNamespace(params={"training.steps": "3"}))]
    def create_run(self, folder, tags, run_name):
        pathlib.Path("made").touch()
        record("init", tags)
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="7"))
    def update_run(self, run_id, status): record("again", status)
    def set_tag(self, run_id, name, value): record("tag", name, value)
    def log_batch(self, run_id, metrics=(), params=()):
        if metrics: record("log", metrics[0][2], {name: value for name, value, _ in metrics})
    def set_terminated(self, run_id, status): record("finish", status)
"""
MINE = """
import os, sys, time
from record import record
class Works:
    def start(self, run): return "here"
    def log(self, values, step): record("log", step, values)
    def flush(self): pass
    def finish(self, finished): record("finish", finished)
class FailsAtStart(Works):
    def start(self, run): raise OSError(28, "No space left on device")
class FailsAtLog(Works):
    def log(self, values, step): raise RuntimeError("log in first")
class Exits(Works):
    def start(self, run): sys.exit(3)
class Dies(Works):
    def start(self, run): os._exit(9)
class HangsAtStart(Works):
    def start(self, run): time.sleep(600)
class HangsAtFinish(Works):
    def finish(self, finished): time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the modules of the fakes."""
    monkeypatch.chdir(tmp_path)
    for name, code in {"record": RECORD, "wandb": WANDB, "trackio": TRACKIO, "mlflow": MLFLOW, "mine": MINE}.items():
        (tmp_path / "fakes").mkdir(exist_ok=True)
        (tmp_path / "fakes" / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "fakes"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fakes'}:{Path(__file__).parents[2] / 'src'}")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def train(text_file: Path, *options: str) -> int:
    return main(["train", str(text_file), "--steps", "3", *TINY, "--run", "run", *options])


def calls(name: str) -> list[list]:
    return [call for call in map(json.loads, Path("calls.jsonl").read_text().splitlines()) if call[0] == name]


@pytest.mark.parametrize(
    "tracker", ["wandb", *(pytest.param(name, marks=pytest.mark.slow) for name in ("trackio", "mlflow"))]
)
def test_every_value_reaches_the_tracker_once(folder, text_file, tracker, monkeypatch):
    monkeypatch.setenv("CHARLADDER_TRACK_GROUP", "plan")
    monkeypatch.setenv("CHARLADDER_TRACK_ARM", "arm")
    assert train(text_file, "--track", tracker) == 0
    assert main(["train", "--resume", "run", "--extend", "--steps", "5", "--track", tracker]) == 0
    lines = read_metrics(Path("run/metrics.jsonl"))
    logged = [(step, values) for _, step, values in calls("log")]
    assert sorted(logged, key=str) == sorted(((line["step"], metric_values(line)) for line in lines), key=str)
    term = lines[0]["terms"]["main"]
    first = logged[0][1]
    assert [first["bits/main"], first["weight/main"], first["share/main"]] == list(term.values())
    assert {"total", "gradient_norm", "learning_rate", "bits/layer1.target1"} <= first.keys()
    assert len(calls("finish")) == 2
    settings = calls("init")[0][1]
    if tracker == "mlflow":
        assert (settings["plan"], settings["arm"], len(calls("init"))) == ("plan", "arm", 1)
        assert calls("again") == [["again", "RUNNING"]] and calls("tag") == [["tag", "changed.training.steps", "5"]]
        assert calls("uri")[0][1] == (folder / "mlruns").as_uri()
    else:
        again = calls("init")[1][1]
        assert settings["group"] == "plan" and settings["config"]["model.width"] == 16
        assert "text.letters" not in settings["config"]
        assert all(again[name] == settings[name] for name in ("name", "project"))
    if tracker == "wandb":
        assert (settings["mode"], settings["job_type"], settings["id"]) == ("offline", "arm", again["id"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("FailsAtStart", "No space left on device", marks=pytest.mark.slow),
        pytest.param("FailsAtLog", "log in first", marks=pytest.mark.slow),
        pytest.param("Exits", "SystemExit: 3", marks=pytest.mark.slow),
        pytest.param("Dies", "ended with code 9", marks=pytest.mark.slow),
        pytest.param("HangsAtStart", "did not end within", marks=pytest.mark.slow),
        pytest.param("HangsAtFinish", "did not end within", marks=pytest.mark.slow),
        pytest.param("Missing", "has no attribute 'Missing'", marks=pytest.mark.slow),
    ],
)
def test_a_fault_is_one_note_and_the_run_is_bitwise_that_without_a_tracker(
    folder, text_file, name, reason, capsys, monkeypatch
):
    monkeypatch.setattr(tracking, "_QUIET_SECONDS", 0.5)
    make = lambda path, tracker: TrackerProcess(path, tracker, finish_seconds=1.0)  # noqa: E731
    monkeypatch.setattr(tracking, "TrackerProcess", make)
    assert train(text_file) == 0
    Path("run").rename("untracked")
    capsys.readouterr()
    assert train(text_file, "--track", f"mine:{name}") == 0
    out = capsys.readouterr().out
    assert out.count(f"note: mine:{name} stopped: ") == 1 and reason in " ".join(out.split())
    for file in ("model.safetensors", "heads.safetensors"):
        assert_same_tensors(Path("run") / file, Path("untracked") / file)
    monkeypatch.undo()


PACKAGES = (
    "wandb", "trackio", "tensorboard", "tensorboard.compat", "tensorboard.compat.proto", "tensorboard.summary",
    *(f"tensorboard.compat.proto.{name}_pb2" for name in ("event", "summary", "tensor", "types")),
    "tensorboard.summary.writer", "tensorboard.summary.writer.event_file_writer",
)  # fmt: skip


@pytest.mark.parametrize(
    ("tracker", "command"),
    [
        ("wandb", "offline in -runs/a/wandb; wandb sync ./-runs/a/wandb/offline-run-*"),
        ("tensorboard", "tensorboard --logdir ./-runs/a/tensorboard"),
        ("trackio", "trackio show '--project=-p q'"),
    ],
)
def test_printed_commands_for_names_that_begin_with_a_dash(tracker, command, monkeypatch):
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, MagicMock())
    monkeypatch.setattr("sys.path", [*sys.path])  # make_tracker adds the working directory
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_PROJECT", "-p q")
    try:
        assert make_tracker(tracker).start(TrackedRun(Path("-runs/a"), "id", {})) == command
    finally:
        del sys.modules[f"charladder.tracking.{tracker}_tracker"]  # it has the fakes


@pytest.mark.slow
def test_a_resumed_run_sends_what_a_failed_tracker_missed(folder, text_file, capsys):
    assert train(text_file, "--track", "mine:FailsAtLog") == 0
    assert main(["train", "--resume", "run", "--track", "mine:Works"]) == 0
    logged = [step for _, step, values in calls("log") if "total" in values]
    assert logged == [1, 2, 3] and calls("finish") == [["finish", True]]


def test_a_missing_package_is_an_error_before_training(folder, text_file, capsys, monkeypatch):
    (folder / "fakes" / "wandb.py").unlink()
    (folder / "wandb").mkdir()  # a folder of offline runs is not the package
    monkeypatch.setattr("charladder.tracking.tracker._is_installed", lambda package: False)
    assert train(text_file, "--track", "wandb") == 2
    assert "install it with pip install wandb, or leave out --track" in capsys.readouterr().err
    assert train(text_file, "--track", "tensorbord") == 2
    assert "did you mean tensorboard?" in capsys.readouterr().err
    assert train(text_file, "--track", "nowhere:Tracker") == 2
    assert "there is no module nowhere" in capsys.readouterr().err
    assert not Path("run").exists()
