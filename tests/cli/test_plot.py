"""`charladder plot`"""

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
def run_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path, "none", 0, 2.0)
    make_run(tmp_path, "$a_b$", 0, 1.9, finished=False)


def test_curves_of_several_runs(capsys):
    assert (
        main(["plot", "none-seed0", "$a_b$-seed0", "--terms", "main,layer1.target1", "--by", "seconds", "--json"]) == 0
    )
    output = json.loads(capsys.readouterr().out)
    assert output["plot"] == "plot.png" and Path("plot.png").read_bytes().startswith(b"\x89PNG")
    assert [run["run"] for run in output["runs"]] == ["none-seed0", "$a_b$-seed0"]
    assert [run["valid_bits_per_character"] for run in output["runs"]] == [2.0, None]


def draw_axes(arguments, monkeypatch):
    """The axes of the figure that `plot` saves."""
    figures = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    assert main(["plot", *arguments]) == 0
    return figures[0].axes


def test_y_axis_fits_the_steps_after_the_first_ones(monkeypatch):
    steps = [{"step": step, "characters": step, "terms": {"main": {"bits": 2 + 6 / step}}} for step in range(1, 101)]
    Path("none-seed0", "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    _, training = draw_axes(["none-seed0"], monkeypatch)
    bottom, top = training.get_ylim()
    assert bottom < 2 + 6 / 100 and 2 + 6 / 5 < top < 2 + 6 / 4


def test_small_weights_differ_from_zero_in_colour(monkeypatch):
    image = draw_axes(["t64", "--schedule"], monkeypatch)[0].images[0]
    shades = [sum(image.cmap(image.norm(weight))[:3]) for weight in (0.0, 1 / 64, 1.0)]
    assert image.norm(0.0) == 0 and image.norm(1.0) == 1
    assert shades[0] - shades[1] > 0.15 and shades[1] > shades[2]


def test_runs_of_bytes_and_of_letters_are_not_plotted_together(capsys):
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


def test_prints_the_path_of_the_picture(capsys):
    assert main(["plot", "none-seed0", "--out", "curves.svg"]) == 0
    out = capsys.readouterr().out
    assert "valid: 2.0000 bits per character" in out
    assert out.endswith("picture: curves.svg\n")
    assert "<svg" in Path("curves.svg").read_text()


def test_overwrites_a_file_only_with_force(capsys):
    Path("plot.png").write_text("mine")
    assert main(["plot", "none-seed0"]) == 2
    assert "plot.png exists and is not overwritten" in capsys.readouterr().err
    assert Path("plot.png").read_text() == "mine"
    assert main(["plot", "none-seed0", "--force"]) == 0
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["none-seed0", "ladder", "t64"])
def test_schedule_of_a_run_or_a_recipe(capsys, name):
    assert main(["plot", name, "--schedule", "--out", "schedule.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schedule"] == name
    assert Path("schedule.png").read_bytes().startswith(b"\x89PNG")


def test_default_schedule_is_that_of_the_paper():
    progress, weights = sample_schedule(ObjectiveConfig(), 4)
    for layer in (1, 2, 3):
        assert np.array_equal(weights[:, layer - 1, 0], (progress < layer / 8).astype(float))
    assert (weights[:, 3, 0] == 1).all() and (weights[:, 3, 1] == 0.5).all()


def test_schedule_is_sampled_in_the_middle_of_each_part():
    progress, weights = sample_schedule(ObjectiveConfig(), 4)
    assert len(progress) == len(weights) == 200
    assert np.allclose(progress, np.linspace(1 / 400, 399 / 400, 200))


def test_weights_that_change_every_step_are_averaged():
    _, weights = sample_schedule(ObjectiveConfig(target_schedule="blockwise", intermediate=False), 2)
    assert 0 < weights[0, 1, 0] < 1
    assert np.allclose(weights[:, 1].sum(-1), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run directory nowhere"),
        (["."], ". is not a run directory"),
        (["new"], "new has no metrics yet"),
        (["none-seed0", "--terms", "layer1.target2"], "called 'layer1.target2'; did you mean layer1.target1?"),
        (["none-seed0", "--terms", ","], "give names of terms"),
        (["none-seed0", "--out", "plot.pdf"], "must end in .png or .svg"),
        (["none-seed0", "--out", "nowhere/plot.png"], "there is no directory nowhere"),
        (["none-seed0", "--by", "hours"], "invalid choice: 'hours'"),
        (["none-seed0", "none-seed0", "--schedule"], "--schedule draws one run or recipe, but 2 are given"),
        (["none-seed0", "--schedule", "--by", "steps"], "--by and --terms cannot be combined with --schedule"),
        (["laddr", "--schedule"], "there is no recipe called 'laddr'; did you mean ladder?"),
        ([], "required: RUN"),
    ],
)
def test_user_errors_are_one_sentence(capsys, arguments, message):
    (make_run(Path("fresh"), "new", 0, 2.0) / "metrics.jsonl").unlink()
    Path("fresh/new-seed0").rename("new")
    assert main(["plot", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not Path("plot.png").exists()
