"""`charladder inspect`"""

import json

import pytest

from charladder.cli.main import main


def inspect_json(capsys, *arguments: str) -> dict:
    assert main(["inspect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_parameter_counts_of_the_paper(capsys):
    t12, t64 = inspect_json(capsys, "t12")["parameters"], inspect_json(capsys, "t64")["parameters"]
    assert 44.2e6 <= t12["training"] <= 44.3e6
    assert round(t12["inference"], -5) == 41.2e6
    assert abs(t64["training"] - 235.4e6) <= 0.1e6
    assert round(t64["inference"], -5) == 218.8e6


def test_parameter_counts_by_position_encoding(capsys):
    """T12 has 12 tables of 512 x 512; `table` keeps one of them, and a sinusoidal signal has no parameters."""
    base = inspect_json(capsys, "t12")["parameters"]
    for positions, num_fewer in (("table", 11), ("sinusoidal", 12), ("rotary", 12)):
        counts = inspect_json(capsys, "t12", "--model.positions", positions)["parameters"]
        assert {name: base[name] - counts[name] for name in base} == dict.fromkeys(base, num_fewer * 512 * 512)


def test_width_and_heads_follow_from_the_number_of_layers(capsys):
    for layers, width in ((2, 64), (4, 64), (5, 128), (6, 128), (8, 192), (12, 256), (24, 512)):
        config = inspect_json(capsys, "ladder", "--layers", str(layers))["config"]
        assert config["model"]["width"] == width
        assert config["model"]["attention_heads"] == width // 64
    assert inspect_json(capsys, "--layers", "6", "--width", "256")["config"]["model"]["width"] == 256


def test_budget_chooses_the_shape_unless_one_is_set(capsys):
    shapes = {}
    for minutes in ("1", "5", "30", "100", "600", "1440"):
        arguments = "--minutes", minutes, "--device", "cpu", "--precision"
        model, faster = (
            inspect_json(capsys, "ladder", *arguments, p)["config"]["model"] for p in ("float32", "bfloat16")
        )
        shapes[minutes] = model["layers"], model["width"], model["context"]
        assert model["width"] // model["attention_heads"] == 64
        assert (faster["layers"], faster["width"]) >= shapes[minutes][:2]
        if minutes == "5":
            assert (faster["layers"], faster["width"], faster["context"]) == (4, 192, 256)
    assert shapes["1"] == shapes["5"] == (4, 128, 128)
    assert list(shapes.values()) == sorted(shapes.values())
    assert len(set(shapes.values())) == 5
    model = inspect_json(capsys, "ladder", "--minutes", "1440", "--layers", "3", "--context", "64")["config"]["model"]
    assert (model["layers"], model["width"], model["context"]) == (3, 64, 64)
    model = inspect_json(capsys, "ladder", "--steps", "10")["config"]["model"]
    assert (model["layers"], model["width"], model["context"]) == (6, 128, 128)


def test_t64_has_the_settings_of_the_paper(capsys):
    config = inspect_json(capsys, "t64")["config"]
    assert config["training"]["steps"] == 4_000_000
    assert (config["training"]["optimizer"], config["training"]["momentum"]) == ("momentum", 0.99)
    assert (config["training"]["learning_rate"], config["training"]["batch"]) == (0.003, 16)
    assert config["objective"] == {
        "positions": "all", "intermediate": True, "intermediate_schedule": "half", "intermediate_weight": 1.0,
        "intermediate_reduction": "mean",
        "intermediate_input": "normed", "intermediate_heads": "own", "targets": 2, "target_heads": "independent",
        "target_schedule": "plain", "target_weight": 0.5, "target_end": 1.0,
    }  # fmt: skip


def test_prints_a_table_without_json(capsys):
    assert main(["inspect", "t12"]) == 0
    out = capsys.readouterr().out
    assert "44,258,304" in out
    assert "intermediate_schedule" in out


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], ["--version"], [], ["train", "--help"], ["inspect", "--help"]]
)
def test_help(capsys, arguments):
    try:
        assert main(arguments) == 0
    except SystemExit as end:
        assert not end.code
    out = capsys.readouterr().out
    assert out
    if len(arguments) == 2:
        assert "examples:" in out
