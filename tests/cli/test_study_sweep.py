"""`charladder study` with a sweep: what is checked before it, what it leaves, and what stands after it."""

import json
from pathlib import Path

import pytest

from charladder.cli import study_stages
from charladder.cli.main import main
from charladder.errors import UserError
from charladder.studies.directory import list_planned_runs, lock_study_directory, open_study_directory
from charladder.studies.runner import RunFailed, RunFinished
from charladder.studies.sweep import sweep_directory

PLAN = """
data = ["text"]
seeds = 1
[set]
"model.layers" = 2
"model.width" = 16
"model.context" = 16
"training.batch" = 2
"training.steps" = 5
"training.device" = "cpu"
"text.valid" = 200
[arms.none]
"objective.intermediate" = false
[arms.layers]
"""
SWEEP = '[sweep]\nseeds = [7]\n"training.learning_rate" = [0.001, 0.01, 0.1]\n'
FOLDER = Path("studies/own")


class Trained:
    """In place of `run_plan`: runs that end at once, with the bits that a test chooses. failed: parts of their names.
    limit: runs until the command is stopped."""

    def __init__(self):
        self.runs, self.failed, self.limit = [], set(), 1000

    def __call__(self, plan, folder, jobs, stop, tracker):
        with open_study_directory(plan, folder):
            for run in list_planned_runs(plan, folder):
                if len(self.runs) == self.limit:
                    return
                self.runs.append(run.path.name)
                if any(part in run.path.name for part in self.failed):
                    yield RunFailed(run, 1)
                else:
                    yield RunFinished(run, 2 - run.arm.fields.get("training.learning_rate", 0), 1.0)


@pytest.fixture
def trained(tmp_path, monkeypatch, text_file):
    monkeypatch.chdir(tmp_path)
    Path("text").write_bytes(text_file.read_bytes())
    Path("own.toml").write_text(PLAN + SWEEP)
    trained = Trained()
    monkeypatch.setattr(study_stages, "run_plan", trained)
    return trained


def test_the_choice_is_printed_and_part_of_the_json(trained, capsys):
    assert main(["study", "own.toml"]) == 0
    assert "chosen for layers: training.learning_rate = 0.1\n" in capsys.readouterr().out
    assert main(["study", "own.toml", "--json"]) == 0
    sweep = json.loads(capsys.readouterr().out)["sweep"]
    assert sweep["folder"] == "studies/own/sweep" and sweep["runs"] == sweep["report"] == []
    assert sweep["chosen"] == {arm: {"training.learning_rate": 0.1} for arm in ("none", "layers")}
    assert main(["study", "own.toml", "--dry-run"]) == 0
    assert "chosen for none: training.learning_rate = 0.1" in capsys.readouterr().out
    assert main(["study", "own.toml", "--json", "--out", "new"]) == 0
    sweep = json.loads(capsys.readouterr().out)["sweep"]
    assert len(sweep["runs"]) == 6 and len(sweep["report"]) == 5


def test_a_failed_trial_is_not_repeated_once_the_comparison_has_begun(trained):
    trained.failed = {"learning_rate=0.1"}
    trained.limit = 7  # the sweep, and one run
    assert main(["study", "own.toml"]) == 130
    trained.failed, trained.limit, trained.runs = set(), 1000, []
    assert main(["study", "own.toml"]) == 0
    assert trained.runs == ["none-seed0", "layers-seed0"]
    assert 'learning_rate" = 0.01\n' in (FOLDER / "plan.toml").read_text()


def test_a_failed_trial_is_repeated_before(trained):
    trained.failed = {"learning_rate=0.1"}
    trained.limit = 5
    assert main(["study", "own.toml"]) == 130
    trained.failed, trained.limit = set(), 1000
    assert main(["study", "own.toml"]) == 0
    assert 'learning_rate" = 0.1\n' in (FOLDER / "plan.toml").read_text()


def test_an_arm_without_values(trained, capsys):
    trained.failed = {"layers "}
    assert main(["study", "own.toml", "--json"]) == 1
    out, err = capsys.readouterr()
    done = json.loads(out)
    assert done["runs"] == [] and done["sweep"]["chosen"] == {} and len(done["sweep"]["runs"]) == 6
    assert all(Path(path).is_file() for path in done["sweep"]["report"]) and done["sweep"]["report"]
    assert "arm 'layers' has no values in the sweep whose runs have finished" in err
    assert not (FOLDER / "plan.toml").exists()


def test_the_report_of_a_sweep_that_has_not_ended(trained, capsys):
    trained.limit = 2
    assert main(["study", "own.toml"]) == 130
    capsys.readouterr()
    assert main(["study", "own.toml", "--report-only", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["folder"] == "studies/own/sweep" and Path(done["report"][0]).is_file()


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_folder_of_another_plan_is_refused_before_the_sweep(trained, capsys, dry_run):
    Path("own.toml").write_text(PLAN)
    assert main(["study", "own.toml"]) == 0
    Path("own.toml").write_text(PLAN + SWEEP)
    trained.runs = []
    assert main(["study", "own.toml", *dry_run]) == 2
    assert "studies/own holds a study without a sweep; choose another folder (--out)" in capsys.readouterr().err
    assert not trained.runs and not sweep_directory(FOLDER).exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [7]", "seeds = [7, 8]", "values that were chosen on other seeds than those of [sweep]"),
        ("0.1]", "0.2]", "studies/own/sweep holds another plan (its arms differs)"),
        ("seeds = 1", "seeds = [3]", "studies/own has runs of the seeds [0]"),
        ("seeds = 1", 'seeds = 1\nquestion = "why?"', "studies/own holds another plan (its question differs)"),
    ],
)
def test_a_changed_plan_is_refused_before_the_sweep(trained, capsys, old, new, message):
    assert main(["study", "own.toml"]) == 0
    trained.runs = []
    text = Path("own.toml").read_text()
    assert old in text
    Path("own.toml").write_text(text.replace(old, new))
    for dry_run in ([], ["--dry-run"]):
        assert main(["study", "own.toml", *dry_run]) == 2
        assert message in capsys.readouterr().err and not trained.runs


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"training.learning_rate" = 0.1',
            '"training.learning_rate" = 0.3',
            "training.learning_rate is not in the sweep",
        ),
        ('"training.learning_rate" = 0.1', "", "training.learning_rate is not in the sweep"),
        ("[arms.layers]", "[arms.other]", "holds another plan, without arm 'layers'"),
        ("[arms.layers]", "[other.layers]", "holds another plan, without arm 'layers'"),
        ("seeds = [", "seeds = [[1],", "has runs of the seeds"),
        ("[set]", "[set", "is not valid TOML"),
    ],
)
def test_an_edited_plan_in_the_folder(trained, capsys, old, new, message):
    assert main(["study", "own.toml"]) == 0
    text = (FOLDER / "plan.toml").read_text()
    assert old in text
    (FOLDER / "plan.toml").write_text(text.replace(old, new))
    capsys.readouterr()
    assert main(["study", "own.toml"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_more_seeds_after_the_sweep(trained):
    assert main(["study", "own.toml"]) == 0
    trained.runs = []
    assert main(["study", "own.toml", "--seeds", "2"]) == 0
    assert trained.runs == ["none-seed0", "layers-seed0", "none-seed1", "layers-seed1"]


def test_the_folder_is_locked_during_the_sweep(trained, monkeypatch, capsys):
    def train(plan, folder, *rest):
        if folder != FOLDER:
            with pytest.raises(UserError, match="in use by another process"), lock_study_directory(FOLDER):
                pass
        yield from trained(plan, folder, *rest)

    monkeypatch.setattr(study_stages, "run_plan", train)
    assert main(["study", "own.toml"]) == 0
    trained.runs = []
    with lock_study_directory(Path("new")):
        assert main(["study", "own.toml", "--out", "new"]) == 2
    assert "new is in use by another process" in capsys.readouterr().err and not trained.runs


def test_every_value_must_fit_the_text(trained, capsys):
    text = PLAN.replace('"model.context" = 16\n', "")
    Path("own.toml").write_text(text + '[sweep]\nseeds = [7]\n"model.context" = [16, 100000]\n')
    for dry_run in ([], ["--dry-run"]):
        assert main(["study", "own.toml", *dry_run]) == 2
        assert "arm 'none context=100000' of the plan needs 100002 characters" in capsys.readouterr().err
    assert not trained.runs
