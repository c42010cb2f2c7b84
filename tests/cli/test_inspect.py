import json

import pytest

from charladder.cli.main import main


def facts(capsys, *words: str) -> dict:
    assert main(["inspect", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_papers_parameter_counts(capsys):
    t12, t64 = facts(capsys, "t12")["parameters"], facts(capsys, "t64")["parameters"]
    assert 44.2e6 <= t12["training"] <= 44.3e6
    assert round(t12["inference"], -5) == 41.2e6
    assert abs(t64["training"] - 235.4e6) <= 0.1e6
    assert round(t64["inference"], -5) == 218.8e6


def test_parameter_counts_without_tables_at_every_layer(capsys):
    """T12 has 12 tables of 512 x 512; `table` keeps one of them, and a sinusoidal signal has no parameters."""
    whole = facts(capsys, "t12")["parameters"]
    for positions, fewer in (("table", 11), ("sinusoidal", 12), ("rotary", 12)):
        found = facts(capsys, "t12", "--model.positions", positions)["parameters"]
        assert {where: whole[where] - found[where] for where in whole} == dict.fromkeys(whole, fewer * 512 * 512)


def test_one_dial_derives_the_rest(capsys):
    for layers, width in ((2, 64), (4, 64), (5, 128), (6, 128), (8, 192), (12, 256), (24, 512)):
        config = facts(capsys, "ladder", "--layers", str(layers))["config"]
        assert config["model"]["width"] == width
        assert config["model"]["attention_heads"] == width // 64
    assert facts(capsys, "--layers", "6", "--width", "256")["config"]["model"]["width"] == 256


def test_the_budget_chooses_the_shape_unless_one_is_set(capsys):
    shapes = {}
    for minutes in ("1", "5", "30", "100", "600", "1440"):
        words = "--minutes", minutes, "--device", "cpu", "--precision"
        model, faster = (facts(capsys, "ladder", *words, p)["config"]["model"] for p in ("float32", "bfloat16"))
        shapes[minutes] = model["layers"], model["width"], model["context"]
        assert model["width"] // model["attention_heads"] == 64
        assert (faster["layers"], faster["width"]) >= shapes[minutes][:2]
        if minutes == "5":
            assert (faster["layers"], faster["width"], faster["context"]) == (4, 192, 256)
    assert shapes["1"] == shapes["5"] == (4, 128, 128)
    assert list(shapes.values()) == sorted(shapes.values())
    assert len(set(shapes.values())) == 5
    model = facts(capsys, "ladder", "--minutes", "1440", "--layers", "3", "--context", "64")["config"]["model"]
    assert (model["layers"], model["width"], model["context"]) == (3, 64, 64)
    model = facts(capsys, "ladder", "--steps", "10")["config"]["model"]
    assert (model["layers"], model["width"], model["context"]) == (6, 128, 128)


def test_recipes_are_to_the_letter(capsys):
    config = facts(capsys, "t64")["config"]
    assert config["training"]["steps"] == 4_000_000
    assert (config["training"]["optimizer"], config["training"]["momentum"]) == ("momentum", 0.99)
    assert (config["training"]["learning_rate"], config["training"]["batch"]) == (0.003, 16)
    assert config["objective"] == {
        "positions": "all", "intermediate": True, "intermediate_schedule": "half", "intermediate_weight": 1.0,
        "intermediate_reduction": "mean",
        "intermediate_input": "normed", "intermediate_heads": "own", "targets": 2, "target_schedule": "plain",
        "target_weight": 0.5, "target_end": 1.0,
    }  # fmt: skip


def test_without_json_it_is_a_table(capsys):
    assert main(["inspect", "t12"]) == 0
    out = capsys.readouterr().out
    assert "44,258,304" in out
    assert "intermediate_schedule" in out


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], [], ["train", "--help"], ["inspect", "--help"]])
def test_help(capsys, words):
    try:
        assert main(words) == 0
    except SystemExit as end:
        assert not end.code
    out = capsys.readouterr().out
    assert out
    if len(words) == 2:
        assert "examples:" in out
