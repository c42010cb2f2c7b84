"""studies.run: the numbers by hand, runs that are kept, failures, interruption, and mistakes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from scipy import stats

from charladder import studies
from charladder.errors import UserError
from studies.training_functions import nothing, train

ARMS = {"none": {}, "aux": {"gain": 0.05}}
run = partial(studies.run, metric="loss", higher_is_better=False, quiet=True)


def test_exported_names():
    assert set(studies.__all__) == {"ArmDifference", "FinishedCall", "Result", "run"}
    assert all(getattr(studies, name).__doc__ for name in studies.__all__)


def losses(arm, seeds=5):
    return [train(ARMS[arm], seed)["loss"] for seed in range(seeds)]


def test_differences_are_those_of_scipy(tmp_path):
    result = run(train, arms=ARMS, seeds=5, folder=tmp_path)
    expected = stats.ttest_rel(losses("aux"), losses("none"))
    interval = expected.confidence_interval(0.95)
    found = result.differences["aux"]
    assert list(result.differences) == ["aux"]
    assert found.mean == pytest.approx(sum(losses("aux")) / 5 - sum(losses("none")) / 5)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == found.p_holm == pytest.approx(expected.pvalue)
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.verdict.startswith("helps: better than none by 0.0") and found.verdict.endswith("5 seeds")
    assert result.means["none"] == pytest.approx(sum(losses("none")) / 5)
    assert [(one.arm, one.seed) for one in result.runs[:3]] == [("none", 0), ("aux", 0), ("none", 1)]


def test_direction_and_baseline(tmp_path):
    harmed = run(train, arms=ARMS, folder=tmp_path, baseline="aux").differences["none"]
    assert harmed.verdict.startswith("harms: worse than aux by")
    higher = run(train, arms=ARMS, folder=tmp_path, metric="accuracy", higher_is_better=True).differences["aux"]
    assert higher.mean > 0 and higher.verdict.startswith("helps: better than none")


def test_printed_text(tmp_path):
    text = str(run(train, arms=ARMS, seeds=[3, 1, 4], folder=tmp_path, effect=0.05))
    assert text.splitlines()[0].startswith("loss, lower is better; differences from none")
    assert "smallest detectable" in text and "not enough seeds for a claim" in text
    assert "seeds needed: aux: to show a difference of 0.05 with a probability of 80%: 5 seeds, 2 more" in text


def given(settings, seed):
    return {"loss": settings[seed]}


def test_verdicts_where_nothing_is_shown(tmp_path):
    arms = {"none": [1.0, 1.1, 1.2, 1.05, 1.15], "same": [1.01, 1.09, 1.22, 1.03, 1.155]}  # within 0.02 of each other
    for effect, verdict in {
        0.01: "uninformative: no difference shown, and the interval contains an effect of 0.01",
        0.05: "no difference shown, and the interval excludes an effect of 0.05",
        None: "no difference shown",
    }.items():
        assert run(given, arms=arms, folder=tmp_path, effect=effect).differences["same"].verdict == verdict


def test_the_same_difference_for_every_seed_has_few_decimals(tmp_path):
    arms = {"none": [0.3, 0.7, 0.1, 0.9, 1.1], "aux": [0.2, 0.6, 0.0, 0.8, 1.0]}
    result = run(given, arms=arms, folder=tmp_path)
    assert result.differences["aux"].verdict == "helps: better than none by 0.10 (0.10 to 0.10), 5 seeds"
    assert "-0.100 to -0.100  < 0.0001  0.000" in str(result)


def test_seeds_needed(tmp_path):
    result = run(train, arms=ARMS, seeds=3, folder=tmp_path)
    some, more = result.seeds_needed(0.01), result.seeds_needed(0.005, arm="aux", power=0.9)
    assert 5 <= some < more
    for wrong, sentence in [
        ({"effect": 0}, "effect is 0"),
        ({"effect": 1, "arm": "none"}, "arm 'none' is not compared"),
        ({"effect": 1, "arm": ["aux"]}, "must be the name of an arm"),
        ({"effect": 1, "power": "x"}, "power is 'x'; it must be a number between 0 and 1"),
    ]:
        with pytest.raises(UserError, match=sentence):
            result.seeds_needed(**wrong)
    with pytest.raises(UserError, match="has 2 seeds in common with the baseline; planning needs at least 3"):
        run(train, arms=ARMS, seeds=2, folder=tmp_path).seeds_needed(0.01)


def counted(calls, settings, seed):
    calls.append((settings.get("gain"), seed))
    return train(settings, seed)


def test_finished_runs_are_not_repeated_and_changed_arms_are_new(tmp_path):
    calls = []
    run(partial(counted, calls), arms=ARMS, seeds=2, folder=tmp_path)
    assert len(calls) == 4
    run(partial(counted, calls), arms=ARMS, seeds=[1, 0], metric="accuracy", folder=tmp_path)
    assert len(calls) == 4
    run(partial(counted, calls), arms={"none": {}, "aux": {"gain": 0.06}}, seeds=2, folder=tmp_path)
    assert calls[4:] == [(0.06, 0), (0.06, 1)]
    run(partial(counted, calls), arms=ARMS, seeds=3, folder=tmp_path)
    assert calls[6:] == [(None, 2), (0.05, 2)]


def test_default_folder_has_the_name_of_the_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(train, arms=ARMS, seeds=2)
    (record, *_) = sorted(Path("studies/studies.training_functions.train").glob("*.json"))
    assert json.loads(record.read_text())["settings"] == {"gain": 0.05}


def test_a_failed_run_is_recorded_and_tried_again(tmp_path, capsys):
    arms = {"none": {}, "aux": {"gain": 0.05, "fail_at": 1}}
    result = run(train, arms=arms, seeds=6, folder=tmp_path, quiet=False)
    assert result.differences["aux"].seeds == (0, 2, 3, 4, 5)
    assert result.differences["aux"].verdict.endswith("), 5 seeds of 6")
    assert "no result: aux, seed 1: RuntimeError: out of luck" in str(result)
    assert "aux, seed 1: failed: RuntimeError: out of luck" in capsys.readouterr().err
    (record,) = tmp_path.glob("aux-seed1-*.json")
    assert "in train" in json.loads(record.read_text())["traceback"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    run(train, arms=arms, seeds=6, folder=tmp_path)
    assert [path for path, time in before.items() if path.stat().st_mtime_ns != time] == [record]


def test_interruption_loses_no_finished_run(tmp_path):
    done = []

    def interrupted(settings, seed):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(seed)
        return train(settings, seed)

    with pytest.raises(KeyboardInterrupt):
        run(interrupted, arms=ARMS, folder=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 3
    done.append("continued")
    assert len(run(interrupted, arms=ARMS, folder=tmp_path).runs) == 10
    assert len(done) == 11


def curve(settings, seed):
    for step in (10, 20, 30):
        yield step, {"loss": train(settings, seed)["loss"] + 1 / step, "rate": 0.1}
    return {"test": 0.5}


def named_steps(settings, seed):
    yield {"step": 1, "loss": 2.0 + seed}
    yield {"step": 2, "loss": 1.0 + seed - settings.get("gain", 0.0)}


def test_curves(tmp_path):
    result = run(curve, arms=ARMS, seeds=2, folder=tmp_path)
    first = result.runs[0]
    assert [step for step, _ in first.curve] == [10, 20, 30]
    assert first.metrics == {"loss": first.curve[-1][1]["loss"], "rate": 0.1, "test": 0.5}
    page = result.report(tmp_path / "reports" / "study.html").read_text()
    assert page.count("<svg") == 2 and "loss over steps, by arm" in page
    found = run(named_steps, arms=ARMS, seeds=2, folder=tmp_path)
    assert found.differences["aux"].mean == pytest.approx(-0.05)
    assert found.runs[0].curve == ((1.0, {"loss": 2.0}), (2.0, {"loss": 1.0}))


def test_report_has_the_tables_of_the_recipes_report(tmp_path):
    result = run(train, arms=ARMS, folder=tmp_path, effect=0.02)
    text = result.report(tmp_path / "study.md").read_text()
    assert f"{result.differences['aux'].verdict}" in text.replace("\\", "")
    for part in ("## Verdict", "## Results", "## Seeds needed", "## What was run", "| seconds a run |", "studies.run("):
        assert part in text
    assert "Training" not in text and "characters" not in text
    page = result.report(tmp_path / "study.html").read_text()
    assert "yields no curves" in page and "Norm of the gradient" not in page and "<script" not in page
    (tmp_path / "file").write_text("")
    for path, sentence in {
        "study.pdf": "its name must end in .html or .md",
        tmp_path / "file" / "study.md": "cannot be written: ",
        3: "path is 3; it must be a path",
    }.items():
        with pytest.raises(UserError) as caught:
            result.report(path)
        assert sentence in str(caught.value)


def same(settings, seed):
    return {"loss": 1.0}


def test_suspicious_results_are_warned_of(tmp_path):
    result = run(same, arms=ARMS, seeds=2, folder=tmp_path)
    assert "all seeds of none have the same loss; does train use its seed?" in str(result)
    assert "aux has the same values as none; does train use the settings of the arm?" in str(result)
    for path in tmp_path.glob("aux*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"source_sha256": "0", "versions": {"torch": "1"}}))
    warned = str(run(same, arms=ARMS, seeds=2, folder=tmp_path))
    assert "has changed since 2 of 4 runs" in warned and "differ in the versions of libraries" in warned


@pytest.mark.slow
def test_several_processes_give_the_same_numbers(tmp_path):
    arms = {"none": {}, "aux": {"gain": 0.05, "exit_at": 1}}
    result = run(train, arms=arms, seeds=3, folder=tmp_path / "two", processes=2)
    alone = run(train, arms=arms, seeds=[0, 2], folder=tmp_path / "one")
    verdict = "not enough seeds for a claim; 2 of 3 seeds have results"
    assert result.differences["aux"] == replace(alone.differences["aux"], verdict=verdict)
    assert "no result: aux, seed 1: its process ended with exit code 9" in str(result)
    with pytest.raises(UserError, match="train returned nothing"):
        run(nothing, arms=ARMS, folder=tmp_path, processes=2)


@pytest.mark.slow
def test_a_program_without_the_guard_is_told_so(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from charladder import studies\n"
        "def train(arm, seed):\n    return {'loss': seed}\n"
        f"studies.run(train, arms={{'a': 1, 'b': 2}}, metric='loss', higher_is_better=False, processes=2,"
        f" folder={str(tmp_path)!r})\n"
    )
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith(
        'with processes above 1, call studies.run in a program below `if __name__ == "__main__":`'
    )


@pytest.mark.slow
def test_ctrl_c_ends_the_processes_and_keeps_finished_runs(tmp_path):
    program, folder = tmp_path / "program.py", tmp_path / "runs"
    program.write_text(
        "import time\n"
        "from charladder import studies\n"
        "def train(arm, seed):\n    time.sleep(1000 * seed)\n    return {'loss': arm}\n"
        "if __name__ == '__main__':\n    studies.run(train, arms={'a': 1, 'b': 2}, metric='loss', seeds=3,"
        f" higher_is_better=False, processes=2, folder={str(folder)!r})\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(program)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )

    def states():
        return sorted(json.loads(path.read_text())["state"] for path in folder.glob("*.json"))

    try:
        deadline = time.monotonic() + 200
        while states() != ["finished", "finished", "started", "started"] and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes of the group
        error, deadline = process.communicate(timeout=100)[1], time.monotonic() + 20
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "interrupted; the same call continues after 2 of 6 runs" in error and "KeyboardInterrupt" in error
    assert states() == ["finished", "finished", "started", "started"]
    with pytest.raises(ProcessLookupError):  # no process is left; the resource tracker of multiprocessing ends last
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)
