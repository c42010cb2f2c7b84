import json

import numpy as np

from charladder.studies.results import MissingRun, collect_results, read_curves
from studies.fakes import STEPS, make_plan, make_run


def test_reads_a_finished_run(tmp_path):
    make_run(tmp_path, "none", 0, bits=2.0)
    results = collect_results(tmp_path, make_plan(seeds=1, arms=("none",)))
    (result,) = results.finished
    assert results.missing == ()
    assert (result.arm, result.seed, result.bits, result.scored_characters) == ("none", 0, 2.0, 5000)
    assert (result.curves.steps, result.curves.characters, result.curves.seconds) == (STEPS, 100 * STEPS, 4.0)
    assert result.characters_per_second == 1000
    # The last ten of the logged steps, every other one: 22 to 40, on a straight line from 8 to 2.
    assert abs(result.train_bits - (8 - 6 * 31 / 40)) < 1e-9
    # The score of the whole part is of another text, and is not a point of the curve.
    assert result.curves.validations.characters_P.tolist() == [800, 1600, 2400, 3200]
    assert result.curves.validations.seconds_P.tolist() == [0.8, 1.6, 2.4, 3.2]
    assert np.allclose(result.curves.validations.bits_P, [7.8, 6.6, 5.4, 4.2])
    assert result.curves.gradient_norms[0] == (3 / STEPS, {"layer1": 0.1, "layer2": 0.2})
    assert result.environment["data"]["name"] == "book.txt"


def test_missing_runs_have_a_reason(tmp_path):
    make_run(tmp_path, "none", 1, bits=2.0, finished=False)
    (make_run(tmp_path, "none", 2, bits=2.0) / "config.toml").write_text("no toml")
    (make_run(tmp_path, "none", 3, bits=2.0) / "environment.json").write_text("{")
    (make_run(tmp_path, "none", 4, bits=2.0) / "metrics.jsonl").unlink()
    make_run(tmp_path, "none", 5, bits=2.0, recorded_seed=6)
    results = collect_results(tmp_path, make_plan(seeds=6, arms=("none",)))
    assert results.finished == ()
    reasons = [gap.reason for gap in results.missing]
    assert results.missing[0] == MissingRun("none", 0, "not started")
    assert reasons[1] == f"unfinished at step {STEPS // 2 - 1}"
    assert reasons[2].startswith("unreadable: ") and "config.toml is not valid TOML" in reasons[2]
    assert reasons[3].startswith("unreadable: ")
    assert reasons[4] == "unfinished at step 0"
    assert "was trained with seed 6" in reasons[5]


def test_a_run_that_is_extended_is_unfinished(tmp_path):
    path = make_run(tmp_path, "none", 0, bits=2.0)
    line = {"step": STEPS + 1, "progress": 0.5, "characters": 100 * (STEPS + 1), "seconds": 4.1, "learning_rate": 0.1}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert collect_results(tmp_path, make_plan(seeds=1, arms=("none",))).missing == (
        MissingRun("none", 0, f"unfinished at step {STEPS + 1}"),
    )


def test_a_final_score_of_a_prefix_is_not_a_validation(tmp_path):
    path = make_run(tmp_path, "none", 0, bits=2.0, finished=False)
    before = read_curves(path)
    assert before.final_score is None
    line = {"step": 19, "split": "valid", "part": True, "final": True, "trained_characters": 1900}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line | {"bits_per_character": 0.5}) + "\n")
    after = read_curves(path)
    assert after.validations.bits_P.tolist() == before.validations.bits_P.tolist()
    assert after.final_score is not None and after.final_score["bits_per_character"] == 0.5
    assert after.whole_score is None


def test_damaged_lines_are_skipped(tmp_path):
    path = make_run(tmp_path, "none", 0, bits=2.0)
    before = read_curves(path)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "split": "valid", "part": true, "trained_characters": 1, "bits_per_character": NaN}\n')
        file.write('{"step": 40, "progress": 1, "characters": 4000, "diagnosis": {"gradient_norms": 3}}\n{"st')
    after = read_curves(path)
    assert after.validations.bits_P.tolist() == before.validations.bits_P.tolist()
    assert (after.steps, after.gradient_norms) == (before.steps, before.gradient_norms)
