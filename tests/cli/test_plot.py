import json
from pathlib import Path

import numpy as np
import pytest

from charladder.cli.main import main
from charladder.objective import ObjectiveConfig
from charladder.studies import plots
from charladder.studies.plots import sample_schedule
from studies.fakes import make_run


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path, "none", 0, 2.0)
    make_run(tmp_path, "$a_b$", 0, 1.9, finished=False)


def test_curves_of_several_runs(capsys):
    assert (
        main(["plot", "none-seed0", "$a_b$-seed0", "--terms", "main,layer1.target1", "--by", "seconds", "--json"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said["plot"] == "plot.png" and Path("plot.png").read_bytes().startswith(b"\x89PNG")
    assert [run["run"] for run in said["runs"]] == ["none-seed0", "$a_b$-seed0"]
    assert [run["valid_bits_per_character"] for run in said["runs"]] == [2.0, None]


def drawn(words, monkeypatch):
    """The panels of the picture that `plot` makes."""
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    assert main(["plot", *words]) == 0
    return figures[0].axes


def test_the_first_steps_do_not_flatten_the_curves(monkeypatch):
    steps = [{"step": step, "characters": step, "terms": {"main": {"bits": 2 + 6 / step}}} for step in range(1, 101)]
    Path("none-seed0", "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    _, training = drawn(["none-seed0"], monkeypatch)
    bottom, top = training.get_ylim()
    assert bottom < 2 + 6 / 100 and 2 + 6 / 5 < top < 2 + 6 / 4


def test_small_weights_of_the_schedule_are_seen_beside_zero(monkeypatch):
    image = drawn(["t64", "--schedule"], monkeypatch)[0].images[0]
    shades = [sum(image.cmap(image.norm(weight))[:3]) for weight in (0.0, 1 / 64, 1.0)]
    assert image.norm(0.0) == 0 and image.norm(1.0) == 1
    assert shades[0] - shades[1] > 0.15 and shades[1] > shades[2]


def test_bytes_and_letters_have_no_common_axis(capsys):
    for name, letters in (("letters", "abc"), ("others", "abd")):
        make_run(Path(), name, 0, 1.5, letters=letters)
    assert main(["plot", "letters-seed0", "none-seed0"]) == 2
    err = capsys.readouterr().err
    assert "a character of none-seed0 is a byte and one of letters-seed0 is a Unicode character" in err
    assert err.count("\n") == 1 and not Path("plot.png").exists()
    assert main(["plot", "letters-seed0", "others-seed0", "letters-seed0"]) == 0
    assert "note: letters-seed0 and others-seed0 have different letters" in capsys.readouterr().err
    assert main(["plot", "none-seed0", "$a_b$-seed0", "--force"]) == 0
    assert not capsys.readouterr().err


def test_the_end_says_where_the_picture_is(capsys):
    assert main(["plot", "none-seed0", "--out", "curves.svg"]) == 0
    out = capsys.readouterr().out
    assert "valid: 2.0000 bits per character" in out
    assert out.endswith("picture: curves.svg\n")
    assert "<svg" in Path("curves.svg").read_text()


def test_a_picture_is_not_written_over_unless_that_is_asked_for(capsys):
    Path("plot.png").write_text("mine")
    assert main(["plot", "none-seed0"]) == 2
    assert "plot.png exists and is not written over" in capsys.readouterr().err
    assert Path("plot.png").read_text() == "mine"
    assert main(["plot", "none-seed0", "--force"]) == 0
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("what", ["none-seed0", "ladder", "t64"])
def test_the_schedule_of_a_run_or_a_recipe(capsys, what):
    assert main(["plot", what, "--schedule", "--out", "schedule.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schedule"] == what
    assert Path("schedule.png").read_bytes().startswith(b"\x89PNG")


def test_the_schedule_is_the_papers():
    progress, weights = sample_schedule(ObjectiveConfig(), 4)
    for layer in (1, 2, 3):
        assert np.array_equal(weights[:, layer - 1, 0], (progress < layer / 8).astype(float))
    assert (weights[:, 3, 0] == 1).all() and (weights[:, 3, 1] == 0.5).all()


def test_the_schedule_is_sampled_in_the_middle_of_each_part_of_training():
    progress, weights = sample_schedule(ObjectiveConfig(), 4)
    assert len(progress) == len(weights) == 200
    assert np.allclose(progress, np.linspace(1 / 400, 399 / 400, 200))


def test_weights_that_move_every_step_are_drawn_in_the_mean():
    _, weights = sample_schedule(ObjectiveConfig(target_schedule="blockwise", intermediate=False), 2)
    assert 0 < weights[0, 1, 0] < 1
    assert np.allclose(weights[:, 1].sum(-1), 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "there is no run directory nowhere"),
        (["."], ". is not a run directory"),
        (["new"], "new has no metrics yet"),
        (["none-seed0", "--terms", "layer1.target2"], "called 'layer1.target2'; did you mean layer1.target1?"),
        (["none-seed0", "--terms", ","], "give names of terms"),
        (["none-seed0", "--out", "plot.pdf"], "must end in .png or .svg"),
        (["none-seed0", "--out", "nowhere/plot.png"], "there is no folder nowhere"),
        (["none-seed0", "--by", "hours"], "invalid choice: 'hours'"),
        (["none-seed0", "none-seed0", "--schedule"], "--schedule draws one run or recipe, and 2 are given"),
        (["none-seed0", "--schedule", "--by", "steps"], "--by and --terms go with curves"),
        (["laddr", "--schedule"], "there is no recipe called 'laddr'; did you mean ladder?"),
        ([], "required: RUN"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(capsys, words, said):
    (make_run(Path("fresh"), "new", 0, 2.0) / "metrics.jsonl").unlink()
    Path("fresh/new-seed0").rename("new")
    assert main(["plot", *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not Path("plot.png").exists()
