"""Weights that are damaged, or are no weights, are refused by every command that reads them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from caches import new_cache
from charladder.cli.main import main
from charladder.evaluation import Score
from charladder.run import open_run
from charladder.strict_json import dumps, find_non_finite
from charladder.training.best_weights import BEST_HEADS_FILE, BEST_NETWORK_FILE, BestWeights, save_best

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2", "--score", "none"]
FILES = "model.safetensors", "heads.safetensors", BEST_NETWORK_FILE, BEST_HEADS_FILE, "drafting.safetensors"
EVALUATE = ["evaluate", "run", "--limit", "50", "--json"]
READERS = [
    ("model.safetensors", EVALUATE),
    ("model.safetensors", ["generate", "run", "--prompt", "A", "--length", "2"]),
    ("model.safetensors", ["refit", "run", "--steps", "1"]),
    ("model.safetensors", ["train", "text", "--from", "run", "--run", "new", *TINY[6:]]),
    ("heads.safetensors", [*EVALUATE, "--by-layer"]),
    ("heads.safetensors", ["train", "text", "--from", "run", "--run", "new", *TINY[6:]]),
    (BEST_NETWORK_FILE, [*EVALUATE, "--weights", "best"]),
    (BEST_HEADS_FILE, [*EVALUATE, "--weights", "best", "--by-layer"]),
    ("drafting.safetensors", ["generate", "run", "--prompt", "A", "--length", "2", "--draft", "targets"]),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text").write_text("The ladder leans on the wall, and every layer is asked what it sees. " * 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        assert main(["train", "text", "--run", "run", *TINY]) == 0
        assert main(["refit", "run", "--steps", "1", "--batch", "1"]) == 0
        run = open_run(Path("run"))
        save_best(Path("run"), run.load_network().state_dict(), run.load_objective().state_dict(), BestWeights(1, 7.5))
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").symlink_to(trained / "text")


def flip(file: Path, place: int) -> None:
    """Changes the highest bit of a byte; places below 0 count from the end."""
    content = bytearray(file.read_bytes())
    content[place] ^= 0x40
    file.write_bytes(content)


@pytest.mark.parametrize(("name", "command"), READERS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_a_flipped_bit_is_noticed(here, capsys, name, command):
    file = Path("run", name)
    flip(file, -1001)
    assert main(command) == 2
    captured = capsys.readouterr()
    assert f"{file} is damaged" in captured.err and "put a good copy back" in captured.err
    assert not captured.out.startswith("{") and not Path("new").exists()


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_a_digest_of_its_metadata_and_tensors(trained, name):
    from safetensors import safe_open

    with safe_open(trained / "run" / name, framework="pt") as opened:
        assert len(opened.metadata()["sha256"]) == 64


def test_the_step_of_the_best_weights_is_checked(here, capsys):
    file = Path("run", BEST_NETWORK_FILE)
    content = file.read_bytes()
    assert content.count(b'"step":"1"') == 1
    file.write_bytes(content.replace(b'"step":"1"', b'"step":"3"'))
    assert main([*EVALUATE, "--weights", "best"]) == 2
    assert f"{file} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["int8", "bool", "float16", "float8_e4m3fn", "nan"])
def test_a_file_of_another_program_is_accepted_if_its_dtypes_and_numbers_are(here, capsys, change):
    file = Path("run/model.safetensors")
    tensors = load_file(file)
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, file)
    assert main(EVALUATE) == 0
    first = next(iter(tensors))
    changed = tensors[first] * float("nan") if change == "nan" else tensors[first].to(getattr(torch, change))
    save_file({**tensors, first: changed}, file)
    capsys.readouterr()
    assert main(EVALUATE) == 2
    assert ("not finite" if change == "nan" else first) in capsys.readouterr().err


def test_json_has_no_nan():
    value = {"a": [1.5, float("nan")], "b": {"c": float("-inf")}, "d": (1, "NaN")}
    assert dumps(value) == '{"a": [1.5, null], "b": {"c": null}, "d": [1, "NaN"]}'
    assert dumps([1.5, "é"]) == json.dumps([1.5, "é"])


def test_numbers_that_are_not_finite_are_named():
    assert find_non_finite({"a": [1.5, True, "NaN", None], "b": {"c": 3}}) is None
    assert find_non_finite({"a": [1.5, {"b": float("nan")}], "c": float("inf")}) == "a.1.b"


def make_infinite(file: Path, name: str) -> None:
    """Large finite weights, one of which gives an infinite logit."""
    tensors = load_file(file)
    tensors[name][3:5] = torch.tensor([[3e38], [-3e38]])
    save_file(tensors, file)


@pytest.mark.parametrize("more", [[], ["--export", "each.jsonl"], ["--by-context"]])
def test_a_score_that_is_not_finite_is_an_error(here, capsys, more):
    make_infinite(Path("run/model.safetensors"), "output.weight")
    assert main([*EVALUATE, *more]) == 2
    captured = capsys.readouterr()
    assert "the score of run is not finite (bits_per_character)" in captured.err
    assert captured.out == "" and not Path("each.jsonl").exists()


def test_a_score_of_a_head_that_is_not_finite_is_an_error(here, capsys):
    file = Path("run/heads.safetensors")
    make_infinite(file, next(name for name in load_file(file) if name.endswith("weight")))
    assert main(EVALUATE) == 0
    capsys.readouterr()
    assert main([*EVALUATE, "--by-layer"]) == 2
    captured = capsys.readouterr()
    assert "the score of run is not finite (by_layer." in captured.err and captured.out == ""


def test_a_final_score_that_is_not_finite_is_an_error_and_is_not_recorded(here, capsys, monkeypatch):
    monkeypatch.setattr("charladder.cli.final_score.score_job", lambda console, held: Score(float("nan"), 20, 1.0))
    assert main(["train", "--resume", "run", "--extend", "--steps", "3", "--score", "20", "--json"]) == 2
    captured = capsys.readouterr()
    assert "the score of run is not finite (bits_per_character)" in captured.err and captured.out == ""
    assert not any("final" in line or "part" not in line for line in lines_of("run") if "split" in line)
    assert Path("run/checkpoints/3").is_dir()


def lines_of(run: str) -> list[dict]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", [BEST_NETWORK_FILE, BEST_HEADS_FILE])
@pytest.mark.parametrize("damage", ["flip", "nan", "int8"])
def test_damaged_best_weights_are_noticed_when_a_run_goes_on(here, capsys, name, damage):
    file = Path("run", name)
    if damage == "flip":
        flip(file, -1001)
    else:
        tensors = load_file(file)
        first = next(iter(tensors))
        changed = tensors[first] * float("nan") if damage == "nan" else tensors[first].to(torch.int8)
        save_file({**tensors, first: changed}, file, {"step": "1", "bits_per_character": "7.5"})
    before = file.read_bytes()
    extend = ["train", "--resume", "run", "--extend", "--steps", "3", "--score", "none"]
    assert main(extend) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"{file} " in sentence and f"or remove {BEST_NETWORK_FILE} and {BEST_HEADS_FILE}" in sentence
    assert file.read_bytes() == before and not Path("run/checkpoints/3").exists()
    for one in (BEST_NETWORK_FILE, BEST_HEADS_FILE):
        Path("run", one).unlink()
    assert main(extend) == 0
