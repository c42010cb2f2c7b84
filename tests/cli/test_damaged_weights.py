"""Commands refuse weights that are damaged, of a wrong dtype or not finite."""

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
COMMANDS_BY_FILE = [
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
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
def workdir(runs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(runs_folder / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").symlink_to(runs_folder / "text")


def flip_bit(file: Path, offset: int) -> None:
    """Changes the highest bit of a byte; a negative offset counts from the end."""
    content = bytearray(file.read_bytes())
    content[offset] ^= 0x40
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "command"), COMMANDS_BY_FILE, ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_flipped_bit_is_detected(workdir, capsys, name, command):
    file = Path("run", name)
    flip_bit(file, -1001)
    assert main(command) == 2
    captured = capsys.readouterr()
    assert f"{file} is damaged" in captured.err and "restore a good copy" in captured.err
    assert not captured.out.startswith("{") and not Path("new").exists()


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_a_digest_of_metadata_and_tensors(runs_folder, name):
    from safetensors import safe_open

    with safe_open(runs_folder / "run" / name, framework="pt") as opened:
        assert len(opened.metadata()["sha256"]) == 64


def test_step_of_the_best_weights_is_checked(workdir, capsys):
    file = Path("run", BEST_NETWORK_FILE)
    content = file.read_bytes()
    assert content.count(b'"step":"1"') == 1
    file.write_bytes(content.replace(b'"step":"1"', b'"step":"3"'))
    assert main([*EVALUATE, "--weights", "best"]) == 2
    assert f"{file} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["int8", "bool", "float16", "float8_e4m3fn", "nan"])
def test_file_of_another_program_needs_correct_dtypes_and_finite_numbers(workdir, capsys, change):
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


def test_json_writes_null_for_nan():
    value = {"a": [1.5, float("nan")], "b": {"c": float("-inf")}, "d": (1, "NaN")}
    assert dumps(value) == '{"a": [1.5, null], "b": {"c": null}, "d": [1, "NaN"]}'
    assert dumps([1.5, "é"]) == json.dumps([1.5, "é"])


def test_find_non_finite_returns_the_key_of_the_number():
    assert find_non_finite({"a": [1.5, True, "NaN", None], "b": {"c": 3}}) is None
    assert find_non_finite({"a": [1.5, {"b": float("nan")}], "c": float("inf")}) == "a.1.b"


def make_logit_infinite(file: Path, name: str) -> None:
    """Writes large finite weights, one of which gives an infinite logit."""
    tensors = load_file(file)
    tensors[name][3:5] = torch.tensor([[3e38], [-3e38]])
    save_file(tensors, file)


@pytest.mark.parametrize("extra_arguments", [[], ["--export", "each.jsonl"], ["--by-context"]])
def test_non_finite_score_is_an_error(workdir, capsys, extra_arguments):
    make_logit_infinite(Path("run/model.safetensors"), "output.weight")
    assert main([*EVALUATE, *extra_arguments]) == 2
    captured = capsys.readouterr()
    assert "the score of run is not finite (bits_per_character)" in captured.err
    assert captured.out == "" and not Path("each.jsonl").exists()


def test_non_finite_score_of_a_head_is_an_error(workdir, capsys):
    file = Path("run/heads.safetensors")
    make_logit_infinite(file, next(name for name in load_file(file) if name.endswith("weight")))
    assert main(EVALUATE) == 0
    capsys.readouterr()
    assert main([*EVALUATE, "--by-layer"]) == 2
    captured = capsys.readouterr()
    assert "the score of run is not finite (by_layer." in captured.err and captured.out == ""


def test_non_finite_final_score_is_an_error_and_is_not_recorded(workdir, capsys, monkeypatch):
    monkeypatch.setattr("charladder.cli.final_score.score_job", lambda console, held: Score(float("nan"), 20, 1.0))
    assert main(["train", "--resume", "run", "--extend", "--steps", "3", "--score", "20", "--json"]) == 2
    captured = capsys.readouterr()
    assert "the score of run is not finite (bits_per_character)" in captured.err and captured.out == ""
    assert not any("final" in line or "part" not in line for line in read_metric_lines("run") if "split" in line)
    assert Path("run/checkpoints/3").is_dir()


def read_metric_lines(run: str) -> list[dict]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", [BEST_NETWORK_FILE, BEST_HEADS_FILE])
@pytest.mark.parametrize("damage", ["flip", *(pytest.param(one, marks=pytest.mark.slow) for one in ("nan", "int8"))])
def test_damaged_best_weights_are_detected_on_resume(workdir, capsys, name, damage):
    file = Path("run", name)
    if damage == "flip":
        flip_bit(file, -1001)
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
    for file_name in (BEST_NETWORK_FILE, BEST_HEADS_FILE):
        Path("run", file_name).unlink()
    assert main(extend) == 0
