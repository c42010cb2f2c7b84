"""The sweep of the plain script's settings: its budget, its trials, and what it does after an interruption."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from benchmarks.__main__ import main as command
from benchmarks.reference import Settings
from benchmarks.trials import HalvingRound, Trials, parse_rounds
from benchmarks.tuned_settings import read_settings, write_settings

from benchmarks import reference_sweep
from charladder.errors import UserError

PLAN = ["--valid", "1000", "--test", "500", "--seconds", "300", "--score", "500", "--rounds", "3:0.5", "2:1"]


def run(monkeypatch, *words) -> int:
    monkeypatch.setattr("sys.argv", ["benchmarks", "reference_sweep", *map(str, words)])
    return command()


def bits_of(settings: Settings) -> float:
    """Invented bits, fewer for wider networks."""
    return 2.0 + 1 / settings.width + settings.muon_rate / 1000


@pytest.fixture
def trained(monkeypatch) -> list[tuple[Settings, float, int]]:
    """Replaces training by invented bits; returns the calls."""
    calls = []

    def invent(settings, seconds, seed, *_):
        calls.append((settings, seconds, seed))
        return {"seed": seed, "valid_bits": bits_of(settings), "seconds": seconds, "steps": 7}

    monkeypatch.setattr(reference_sweep, "run_trial", invent)
    return calls


def test_grid_has_the_default_and_valid_settings(tmp_path):
    settings = reference_sweep.grid()
    assert settings[0] == Settings() and len(settings) == len(set(settings)) == 135
    for one in settings:
        write_settings(tmp_path / "one.toml", one, {"seconds": 1.0})
        assert read_settings(tmp_path / "one.toml") == one


def test_draws_begin_with_the_default_and_repeat_with_the_seed():
    assert reference_sweep.draw_settings(9, 3) == reference_sweep.draw_settings(9, 3)
    assert reference_sweep.draw_settings(9, 3) != reference_sweep.draw_settings(9, 4)
    assert reference_sweep.draw_settings(1, 3) == [Settings()]
    assert set(reference_sweep.draw_settings(135, 0)) == set(reference_sweep.grid())


def test_budget_is_stated_without_training(tmp_path, text_file, monkeypatch, capsys, trained):
    assert run(monkeypatch, text_file, "--out", tmp_path / "out", *PLAN, "--dry-run") == 0
    expected = "5 trials, 3 of 150 s, 2 of 300 s: 17.5 minutes of training; in addition, each trial starts a process "
    assert expected + "and scores 500 characters" in capsys.readouterr().err
    assert not trained and not (tmp_path / "out").exists()


def test_the_best_settings_go_on_and_are_written(tmp_path, text_file, monkeypatch, capsys, trained):
    out = tmp_path / "out"
    assert run(monkeypatch, text_file, "--out", out, *PLAN, "--json") == 0
    drawn = reference_sweep.draw_settings(3, 0)
    ranked = sorted(drawn, key=bits_of)
    assert trained == [*((one, 150.0, 100) for one in drawn), *((one, 300.0, 101) for one in ranked[:2])]
    lines = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    assert lines[0]["settings"] == asdict(Settings())
    assert lines[0].keys() >= {"seconds", "steps", "valid_bits", "seed", "commit", "processor", "torch", "charladder"}
    assert read_settings(out / "best.toml") == ranked[0]
    assert json.loads(capsys.readouterr().out)["measured"]["trials"] == lines


def test_finished_trials_are_not_repeated(tmp_path, text_file, monkeypatch, trained):
    out = tmp_path / "out"
    invent, done = reference_sweep.run_trial, []

    def stop_in_the_third(*arguments):
        if len(trained) == 2:
            raise KeyboardInterrupt
        return invent(*arguments)

    monkeypatch.setattr(reference_sweep, "run_trial", stop_in_the_third)
    assert run(monkeypatch, text_file, "--out", out, *PLAN) == 130
    assert not (out / "best.toml").exists()
    with (out / "trials.jsonl").open("a") as file:
        file.write('{"round": 0, "settings": {"lay')  # as a process that is killed while it writes
    done, trained[:] = list(trained), []
    monkeypatch.setattr(reference_sweep, "run_trial", invent)
    assert run(monkeypatch, text_file, "--out", out, *PLAN) == 0
    assert len(done) == 2 and len(trained) == 3
    whole = (out / "trials.jsonl").read_text()
    trained[:] = []
    assert run(monkeypatch, text_file, "--out", out, *PLAN) == 0
    assert not trained and (out / "trials.jsonl").read_text() == whole


def test_trials_without_a_score_come_last(tmp_path, text_file, monkeypatch, trained):
    invent = reference_sweep.run_trial

    def fail_for_the_default(settings, *rest):
        facts = invent(settings, *rest)
        return facts | ({"valid_bits": None, "failed": "no"} if settings == Settings() else {})

    monkeypatch.setattr(reference_sweep, "run_trial", fail_for_the_default)
    assert run(monkeypatch, text_file, "--out", tmp_path / "out", *PLAN) == 0
    assert Settings() not in [settings for settings, seconds, _ in trained if seconds == 300]
    monkeypatch.setattr(
        reference_sweep, "run_trial", lambda *_: {"seed": 1, "valid_bits": None, "failed": "no", "steps": 0}
    )
    with pytest.raises(UserError, match="no trial of round 0"):
        reference_sweep.main([str(text_file), "--out", str(tmp_path / "other"), *PLAN])


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded(tmp_path, text_file):
    odd = Settings(width=30, heads=4)
    text = tmp_path / "text"
    text.write_bytes(text_file.read_bytes())
    facts = reference_sweep.run_trial(odd, 1.0, 5, text, None, (0, 1))  # pyright: ignore[reportArgumentType]
    assert facts["valid_bits"] is None and facts["seed"] == 5
    assert "exit code 1" in facts["failed"]


@pytest.mark.slow
def test_quick_sweep_of_the_real_script(tmp_path, text_file, monkeypatch, capsys):
    out = tmp_path / "out"
    text_file.write_bytes(text_file.read_bytes() * 2)
    words = [text_file, "--out", out, "--valid", "1000", "--test", "500", "--quick", "--json"]
    assert run(monkeypatch, *words) == 0
    lines = json.loads(capsys.readouterr().out)["measured"]["trials"]
    assert [(line["round"], line["seed"]) for line in lines] == [(0, 100), (0, 100), (1, 101)]
    assert all(0 < line["valid_bits"] < 8.1 and line["steps"] > 0 and line["seconds"] >= 1 for line in lines)
    assert asdict(read_settings(out / "best.toml")) == lines[2]["settings"]
    before = (out / "trials.jsonl").read_bytes()
    assert run(monkeypatch, *words) == 0
    assert (out / "trials.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--seconds", "0"], "--seconds is 0; it must be above 0"),
        (["--seconds", "nan"], "--seconds is nan; it must be above 0"),
        (["--score", "0"], "--score is 0; it must be at least 1 character"),
        (["--valid", "0"], "--valid is 0, and trials are compared on the valid part"),
        (["--valid", "1.5"], "text.valid is 1.5"),
        (["--rounds", "2"], "--rounds has '2'; it must be a number of settings and a part of the seconds"),
        (["--rounds", "0:1"], "--rounds has '0:1'"),
        (["--rounds", "2:nan"], "--rounds has '2:nan'"),
        (["--rounds", "136:1"], "--rounds begins with 136 settings, and the grid has 135"),
        (["--rounds", "2:0.5", "3:1"], "--rounds must have fewer settings and a larger part"),
        (["--rounds", "2:0.5"], "--rounds ends with the part 0.5; the last round must have all seconds"),
    ],
)
def test_bad_options_are_one_sentence(words, sentence, tmp_path, text_file, monkeypatch, capsys):
    out = tmp_path / "out"
    assert run(monkeypatch, text_file, "--valid", "1000", "--test", "500", "--out", out, *words) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_another_plan_and_damaged_files_are_refused(tmp_path, text_file, monkeypatch, capsys, trained):
    out = tmp_path / "out"
    assert run(monkeypatch, text_file, "--out", out, *PLAN) == 0
    trained.clear()
    assert run(monkeypatch, text_file, "--out", out, *PLAN, "--seconds", "60") == 2
    assert "holds a sweep with another plan: seconds was 300.0, and is 60.0; give another --out" in (
        " ".join(capsys.readouterr().err.split())
    )
    trials = out / "trials.jsonl"
    trials.write_text('{"round": 0}\n' + trials.read_text())
    assert run(monkeypatch, text_file, "--out", out, *PLAN) == 2
    assert "line 1 of" in capsys.readouterr().err
    (out / "plan.json").write_text("[")
    assert run(monkeypatch, text_file, "--out", out, *PLAN) == 2
    assert "plan.json cannot be read" in " ".join(capsys.readouterr().err.split())
    assert not trained


def test_rounds_may_keep_their_number():
    assert parse_rounds(["2:1", "2:1"], 5) == [HalvingRound(2, 1.0), HalvingRound(2, 1.0)]


def test_a_line_that_was_not_finished_is_removed(tmp_path):
    path: Path = tmp_path / "trials.jsonl"
    line = {"round": 0, "settings": {"layers": 1}, "steps": 1, "seed": 100, "valid_bits": 2.0}
    Trials(path).append(line)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-1])
    assert Trials(path).lines == [line]
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("layers = ", "is not valid TOML"),
        ("layer = 3", "has the unknown setting 'layer'; did you mean layers?"),
        ("layers = 2.0", "has layers = 2.0; it must be a whole number above 0"),
        ("layers = true", "has layers = True; it must be a whole number above 0"),
        ("muon_rate = 1", "has muon_rate = 1; it must be a number with a decimal point above 0"),
        ("adam_rate = nan", "has adam_rate = nan"),
        ("batch = 0", "has batch = 0"),
        ("layers = 2", "lacks width"),
    ],
)
def test_settings_that_are_not_valid(text, sentence, tmp_path):
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_settings(tmp_path / "settings.toml")
    assert sentence in str(caught.value)


def test_settings_that_are_missing_or_do_not_fit(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_settings(tmp_path / "none.toml")
    write_settings(tmp_path / "odd.toml", Settings(width=192, heads=5), {})
    with pytest.raises(UserError, match="multiple of twice the heads"):
        read_settings(tmp_path / "odd.toml")
