"""`train NEW_TEXT --from RUN`: a new run that begins with the weights of another."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from caches import new_cache
from charladder.cli.main import main
from charladder.run import open_run
from charladder.training.tensor_files import file_digest

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--valid", "0.2"]
WITHOUT_LEARNING = ["--training.learning-rate", "1e-30", "--training.adam-rate", "1e-30"]  # the weights do not change
LETTERS = "a ladder has layers, and each says what it sees. "


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory):
    """The run `old` has an alphabet of letters and two targets."""
    folder = tmp_path_factory.mktemp("from")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        Path("text").write_text(LETTERS * 200)
        Path("other").write_text("what a ladder says, each layer has. " * 250)
        Path("greek").write_text(LETTERS + "Ω" + LETTERS * 100)
        Path("latin").write_bytes((LETTERS * 100).encode("utf-16"))
        arguments = ["--alphabet", "letters", "--steps", "20", "--seed", "3", "--training.clip", "0.5", "--run", "old"]
        assert main(["train", "text", *TINY, *arguments]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_runs_folder(runs_folder, monkeypatch):
    monkeypatch.chdir(runs_folder)


def test_new_run_has_the_weights_recipe_and_alphabet_of_the_source(capsys):
    assert main(["train", "other", "--from", "old", "--run", "new", "--steps", "1", *WITHOUT_LEARNING, "--json"]) == 0
    assert "are initialised" not in capsys.readouterr().err
    for file in ("model.safetensors", "heads.safetensors"):
        before, after = load_file(f"old/{file}"), load_file(f"new/{file}")
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before), file
    config, old = (tomllib.loads(Path(run, "config.toml").read_text()) for run in ("new", "old"))
    assert config["training"]["initial_run"] == str(Path("old").absolute())
    assert config["training"]["initial_sha256"] == file_digest(Path("old/model.safetensors"))
    assert (config["model"], config["objective"]) == (old["model"], old["objective"])
    assert (config["training"]["seed"], config["training"]["clip"], config["training"]["steps"]) == (3, 0.5, 1)
    assert config["text"]["letters"] == old["text"]["letters"]
    assert config["text"]["data"] == [str(Path("other").absolute())]
    assert (config["text"]["valid"], config["text"]["encoding"]) == (0.05, "utf-8"), "the fields of the new text"
    assert open_run(Path("new")).recipe.training.initial_sha256
    assert main(["train", "--resume", "new", "--extend", "--steps", "2"]) == 0


def test_missing_heads_are_initialised_and_named(capsys):
    arguments = ["--objective.targets", "3", "--run", "more", "--steps", "1", *WITHOUT_LEARNING]
    assert main(["train", "other", "--from", "old", *arguments]) == 0
    sentence = "does not have these heads, so they are initialised: layer1.target3, layer2.target3"
    assert f"{Path('old').absolute()} {sentence}" in capsys.readouterr().err
    before, after = load_file("old/heads.safetensors"), load_file("more/heads.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(after) == len(before) + 2


def test_source_without_heads_gives_only_its_network(capsys):
    shutil.copytree("old", "bare")
    Path("bare/heads.safetensors").unlink()
    assert main(["train", "other", "--from", "bare", "--run", "from-bare", "--steps", "1", *WITHOUT_LEARNING]) == 0
    assert "so they are initialised: layer1.target1, layer1.target2, layer2.target2" in capsys.readouterr().err
    before, after = load_file("old/model.safetensors"), load_file("from-bare/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_run_without_checkpoint_restarts_from_the_same_weights(capsys):
    shutil.copytree("old", "source")
    assert main(["train", "other", "--from", "source", "--run", "cut", "--steps", "1", *WITHOUT_LEARNING]) == 0
    for name in (
        "model.safetensors",
        "heads.safetensors",
        "best.safetensors",
        "best_heads.safetensors",
        "metrics.jsonl",
    ):
        Path("cut", name).unlink(missing_ok=True)
    shutil.rmtree("cut/checkpoints")
    assert main(["train", "--resume", "cut"]) == 0
    before, after = load_file("source/model.safetensors"), load_file("cut/model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in ("model.safetensors", "heads.safetensors", "best.safetensors", "best_heads.safetensors"):
        Path("cut", name).unlink(missing_ok=True)
    shutil.rmtree("cut/checkpoints")
    assert main(["train", "--resume", "source", "--extend", "--steps", "22"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "cut"]) == 2
    err = capsys.readouterr().err
    assert "source no longer has the weights that this run began from" in err
    assert "neither model.safetensors nor best.safetensors is that file" in err


def test_start_from_the_best_weights():
    shutil.copytree("old", "overfitted")
    save_file({name: tensor + 1 for name, tensor in load_file("old/model.safetensors").items()},
              "overfitted/best.safetensors", {"step": "1", "bits_per_character": "1.0"})  # fmt: skip
    save_file({name: tensor + 2 for name, tensor in load_file("old/heads.safetensors").items()},
              "overfitted/best_heads.safetensors", {"step": "1", "bits_per_character": "1.0"})  # fmt: skip
    arguments = ["--from", "overfitted", "--weights", "best", "--run", "from-best", "--steps", "1", *WITHOUT_LEARNING]
    assert main(["train", "other", *arguments]) == 0
    for file, best in (("model", "best"), ("heads", "best_heads")):
        before, after = load_file(f"overfitted/{best}.safetensors"), load_file(f"from-best/{file}.safetensors")
        assert all(torch.equal(before[name], after[name]) for name in before), file
    sha256 = tomllib.loads(Path("from-best/config.toml").read_text())["training"]["initial_sha256"]
    assert sha256 == file_digest(Path("overfitted/best.safetensors"))


@pytest.mark.slow
def test_training_improves_on_the_source(capsys):
    """After the same number of steps on the same text, the new run is better than the source."""
    assert main(["evaluate", "old", "--json"]) == 0
    before = json.loads(capsys.readouterr().out)["bits_per_character"]
    arguments = ["--steps", "20", "--valid", "0.2", "--dropout", "0.1", "--run", "longer", "--json"]
    assert (
        main(["train", "text", "--from", "old", *(w.replace("--dropout", "--model.dropout") for w in arguments)]) == 0
    )
    assert json.loads(capsys.readouterr().out)["valid_bits_per_character"] < before - 0.1
    assert open_run(Path("longer")).recipe.model.dropout == 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["greek", "--from", "old"], "greek has the character 'Ω' at byte 49, which is not among the"),
        (["other", "--from", "old", "--alphabet", "bytes"], "text.alphabet is bytes, and --from keeps the network and"),
        (
            ["other", "--from", "old", "--layers", "3"],
            "model.layers is 3, and --from keeps the network and the alphabet",
        ),
        (["other", "--from", "old", "--recipe", "t12"], "--from takes the recipe of old; leave --recipe out"),
        (["--from", "old"], "--from starts a new run on another text; give that text as DATA"),
        (["other", "--from", "nowhere"], "there is no run directory nowhere"),
        (["other", "--from", "empty"], "model.safetensors is not there yet"),
        (["--resume", "old", "--from", "old"], "--from and --weights are for a new run, and --resume continues one"),
        (["other", "--weights", "best"], "--weights chooses the weights of the run of --from"),
        (["other", "--from", "old", "--run", "old"], "old exists and a run is never overwritten"),
        (["latin", "--from", "old"], "latin is not UTF-8 at byte 0"),
    ],
)
def test_user_errors(capsys, arguments, message):
    if not Path("empty").exists():
        Path("empty").mkdir()
        shutil.copy("old/config.toml", "empty/config.toml")
    before = {path.name for path in Path().iterdir()}
    assert main(["train", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1
    assert {path.name for path in Path().iterdir()} == before
