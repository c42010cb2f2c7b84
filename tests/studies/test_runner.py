"""run_plan: real runs, each trained once, with and without interruption."""

import json
import os
import time
from pathlib import Path

import pytest
import tomli_w

from caches import new_cache
from charladder.errors import UserError
from charladder.studies import runner
from charladder.studies.plan import Plan
from charladder.studies.plan_file import read_plan
from charladder.studies.runner import RunFailed, RunFinished, RunInterrupted, RunStarted, default_jobs, run_plan
from charladder.training.metrics import read_metrics
from helpers import assert_same_tensors

SET = {
    "model.layers": 2, "model.width": 16, "model.context": 16, "training.batch": 2, "training.steps": 200,
    "training.log_every": 1, "training.validations": 1, "training.precision": "float32", "training.device": "cpu",
    "text.valid": 200,
}  # fmt: skip
ARMS = {"none": {"objective.intermediate": False}, "layers": {}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan")
    (path / "text").write_text("the ladder leans on the wall, and every layer is asked. " * 60)
    return path


def plan(place: Path, **changes) -> Plan:
    tables = {"data": [str(place / "text")], "set": SET, "arms": ARMS, "seeds": 1} | changes
    path = place / "tiny.toml"
    path.write_text(tomli_w.dumps(tables))
    return read_plan(path)


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The directory of an uninterrupted study of two arms and a seed, two runs at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLADDER_CACHE", new_cache(place / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        ends = [one for one in run_plan(plan(place), place / "whole", jobs=2) if isinstance(one, RunFinished)]
    assert len(ends) == 2
    return place / "whole"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of modification of every file."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "plan.toml")]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def bits(folder: Path, name: str) -> float:
    (line,) = [one for one in read_metrics(folder / name / "metrics.jsonl") if "split" in one and "part" not in one]
    return line["bits_per_character"]


@pytest.mark.slow
def test_trains_every_arm_with_every_seed(whole, place):
    names = ("none-seed0", "layers-seed0")
    scores = [bits(whole, name) for name in names]
    assert len(set(scores)) == 2
    for name, score in zip(names, scores, strict=True):
        assert json.loads((whole / f"{name}.log").read_text().splitlines()[-1])["valid_bits_per_character"] == score
    assert read_plan(whole / "plan.toml") == plan(place, name="tiny")


@pytest.mark.slow
def test_finished_runs_are_not_repeated_and_seeds_can_be_added(whole, place, monkeypatch):
    before = states(whole)
    monkeypatch.setattr(runner, "start_run", lambda *_: pytest.fail("a finished run was repeated"))
    ends = list(run_plan(plan(place), whole, jobs=2))
    assert all(isinstance(one, RunFinished) and one.already_finished for one in ends)
    assert next(one.bits for one in ends if isinstance(one, RunFinished)) == bits(whole, "none-seed0")
    assert states(whole) == before
    more = run_plan(plan(place, seeds=2), whole, jobs=1, stop=lambda: True)
    assert len(list(more)) == 2
    with pytest.raises(UserError, match=r"has runs of the seeds \[0, 1\], and some are not in this plan"):
        next(run_plan(plan(place), whole, jobs=1))
    assert len(list(run_plan(plan(place, seeds=2), whole, jobs=1, stop=lambda: True))) == 2


@pytest.mark.slow
def test_resume_gives_the_same_bits(whole, place):
    asked: list[bool] = []
    events = []
    for one in run_plan(plan(place, seeds=1), place / "cut", jobs=1, stop=lambda: bool(asked)):
        events.append(one)
        if isinstance(one, RunStarted) and one.run.arm.name == "layers":
            metrics, until = one.run.path / "metrics.jsonl", time.monotonic() + 240
            while not (metrics.exists() and len(metrics.read_text().splitlines()) > 20):
                assert time.monotonic() < until
                time.sleep(0.01)
            asked.append(True)
    assert isinstance(events[-1], RunInterrupted)
    assert sum(isinstance(one, RunFinished) for one in events) == 1
    kept = states(place / "cut" / "none-seed0")
    events = list(run_plan(plan(place, seeds=1), place / "cut", jobs=1))
    assert [one.resumed for one in events if isinstance(one, RunStarted)] == [True]
    assert states(place / "cut" / "none-seed0") == kept
    for name in ("none-seed0", "layers-seed0"):
        assert bits(place / "cut", name) == bits(whole, name)
        for file in ("model.safetensors", "heads.safetensors"):
            assert_same_tensors(place / "cut" / name / file, whole / name / file)


@pytest.mark.slow
def test_a_failed_run_is_reported_and_the_others_are_trained(place):
    explode = {"training.optimizer": "momentum", "training.learning_rate": 1e25, "training.clip": 0.0}
    arms = {"bad": {**explode, "training.warmup": 0.0}, "good": {"training.steps": 20}}
    events = list(run_plan(plan(place, arms=arms, seeds=1), place / "failing", jobs=2))
    (failed,) = [one for one in events if isinstance(one, RunFailed)]
    assert (failed.run.arm.name, failed.exit_code) == ("bad", 1)
    assert "new run" in failed.run.log_path.read_text()
    assert [one.run.arm.name for one in events if isinstance(one, RunFinished)] == ["good"]


def test_closing_the_generator_stops_all_processes(place):
    events = run_plan(plan(place, seeds=1), place / "left", jobs=2)
    begun = [next(events), next(events)]
    assert all(isinstance(one, RunStarted) for one in begun)
    until = time.monotonic() + 10
    while len(children()) < 2 and time.monotonic() < until:  # a process that has just started has no arguments yet
        time.sleep(0.01)
    assert len(children()) == 2
    events.close()
    assert children() == []


def children() -> list[bytes]:
    """Command lines of the runs that are child processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"PPid:\t{os.getpid()}\n" in (path / "status").read_text():
                found.append((path / "cmdline").read_bytes())
        except OSError:  # it has ended
            continue
    return [words for words in found if b"charladder.studies.end_with_parent" in words]


def test_a_directory_of_another_plan_is_refused(whole, place):
    before = states(whole)
    for changes, said in (
        (
            {"arms": {"none": {"objective.intermediate": False}, "other": {}}, "seeds": 3},
            "holds another plan (its arms differs)",
        ),
        ({"set": {**SET, "training.steps": 30}, "seeds": 3}, "holds another plan (its set differs)"),
        ({"base": "sprint", "seeds": 3}, "holds another plan (its base differs)"),
    ):
        with pytest.raises(UserError) as caught:
            next(run_plan(plan(place, name="tiny", **changes), whole, jobs=1))
        assert said in str(caught.value)
    assert states(whole) == before


def test_other_contents_of_the_directory_are_not_changed(whole, place, tmp_path):
    (tmp_path / "out" / "none-seed0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"none-seed0 is not a run directory"):
        next(run_plan(plan(place), tmp_path / "out", jobs=1))
    (tmp_path / "out" / "none-seed0").rmdir()
    (tmp_path / "out" / "none-seed0").symlink_to(whole / "layers-seed0")
    with pytest.raises(UserError, match="other settings than the plan's"):
        next(run_plan(plan(place), tmp_path / "out", jobs=1))
    assert not (tmp_path / "out" / "plan.toml").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        next(run_plan(plan(place), tmp_path / "file", jobs=1))


def test_a_base_recipe_file_is_copied_into_the_directory(place, tmp_path):
    (place / "mine.toml").write_text('recipe = "mine"\n[training]\nminutes = 3\noptimizer = "adamw"\n')
    list(run_plan(plan(place, base="mine.toml"), tmp_path / "out", jobs=1, stop=lambda: True))
    again = read_plan(tmp_path / "out" / "plan.toml")
    (place / "mine.toml").write_text('[training]\nminutes = 3\noptimizer = "muon"\n')
    with pytest.raises(UserError, match="its base recipe differs"):
        next(run_plan(plan(place, base="mine.toml"), tmp_path / "out", jobs=1))
    assert list(run_plan(again, tmp_path / "out", jobs=1, stop=lambda: True)) == []


def test_default_jobs_and_shares_of_gpus(place, monkeypatch):
    for cores, jobs in ((2, 1), (3, 1), (4, 2), (16, 8)):
        monkeypatch.setattr(runner, "available_cores", lambda cores=cores: cores)
        assert default_jobs(plan(place)) == jobs
    minutes = {name: value for name, value in SET.items() if name != "training.steps"} | {"training.minutes": 1}
    assert default_jobs(plan(place, set=minutes)) == 1
    monkeypatch.setattr(runner, "training_device", lambda plan: "cuda")
    monkeypatch.setattr(runner.torch.cuda, "device_count", lambda: 3)
    assert default_jobs(plan(place)) == 3
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [runner.child_environment(plan(place), slot, 3)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == list("0120")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [runner.child_environment(plan(place), slot, 2)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["4", "6"]
