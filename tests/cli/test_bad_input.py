"""Every mistake: one sentence, exit code 2, no traceback, nothing made or lost."""

from pathlib import Path

import pytest

from charladder.cli.main import main

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2"]
TRAIN = ["train", "text", "--steps", "2"]

MISTAKES = [
    (["trian"], "there is no verb 'trian'; did you mean train?"),
    (["train", "missing.txt", "--steps", "2"], "no file or corpus called 'missing.txt'"),
    (["train", "empty", "--steps", "2"], "empty is empty"),
    (["train", "short", "--steps", "2"], "fewer than one window of 128"),
    (["train", "broken.gz", "--steps", "2"], "broken.gz cannot be unpacked"),
    (["train", "taken", "--steps", "2"], "the folder taken has no files"),
    ([*TRAIN, "--run", "taken"], "taken exists and a run is never overwritten"),
    ([*TRAIN, "--run", "text/below"], "text/below cannot be made"),
    ([*TRAIN, "--widht", "64"], "no option --widht; did you mean --width?"),
    ([*TRAIN, "--objective.target", "2"], "did you mean --objective.targets?"),
    ([*TRAIN, "extra"], "does not know what to do with 'extra'"),
    ([*TRAIN, "--layers", "0"], "model.layers is 0; it must be at least 1"),
    ([*TRAIN, "--layers", "-3"], "model.layers is -3"),
    ([*TRAIN, "--width", "0"], "model.width is 0"),
    ([*TRAIN, "--batch", "0"], "training.batch is 0"),
    ([*TRAIN, "--batch", "2.5"], "training.batch is '2.5'; it must be a whole number"),
    ([*TRAIN, "--context", "0"], "model.context is 0"),
    (
        [*TRAIN, "--width", "100", "--attention-heads", "3"],
        "model.width 100 is not divisible by model.attention_heads 3",
    ),
    ([*TRAIN, "--device", "cuda:77"], "--device cuda:77 is not on this machine"),
    ([*TRAIN, "--device", "tpu"], "tpu"),
    ([*TRAIN, "--precision", "int8"], "must be one of auto, float32, bfloat16"),
    ([*TRAIN, "--recipe", "laddder"], "no recipe called 'laddder'; did you mean ladder?"),
    ([*TRAIN, "--recipe", "none.toml"], "recipe none.toml cannot be read"),
    ([*TRAIN, "--recipe", "bad.toml"], "bad.toml is not valid TOML"),
    ([*TRAIN, "--recipe", "field.toml"], "unknown field 'model.layer'; did you mean model.layers?"),
    ([*TRAIN, "--recipe", "type.toml"], "model.layers is 'six'; it must be a whole number"),
    ([*TRAIN, "--recipe", "future.toml"], "format_version 99; this charladder reads 1"),
    (["train", "text", "--steps", "0"], "exactly one budget"),
    (["train", "text", "--minutes", "-1"], "a budget must be above 0"),
    (["train", "text", "--minutes", "nan"], "a budget must be above 0"),
    (["train", "text", "--steps", "2", "--minutes", "2"], "a run has one budget"),
    ([*TRAIN, "--valid", "1.5"], "neither a whole number"),
    ([*TRAIN, "--valid", "5000", "--test", "5000"], "leave none to train on"),
    ([*TRAIN, "--layers"], "expected one argument"),
    ([*TRAIN, "--extend"], "--extend changes the budget of a run that exists"),
    (["train", "--resume", "nowhere"], "there is no run directory nowhere"),
    (["train", "--resume", "taken"], "taken is not a run directory"),
    (["train", "--resume", "run", "--layers", "3"], "model.layers is given"),
    (["train", "--resume", "run", "--steps", "9"], "wants --extend"),
    (["train", "text", "--resume", "run"], "leave out --run, --recipe and DATA"),
    (["evaluate", "nowhere"], "there is no run directory nowhere"),
    (["evaluate", "taken"], "not a run directory"),
    (["evaluate", "run", "--stride", "0"], "--stride 0 must be between 1 and the context"),
    (["evaluate", "run", "--stride", "17"], "--stride 17 must be between 1 and the context"),
    (["evaluate", "run", "--context", "0"], "--context 0 is too small"),
    (["evaluate", "run", "--limit", "0"], "--limit is 0"),
    (["evaluate", "run", "--split", "train"], "invalid choice"),
    (["evaluate", "run", "text", "--split", "test"], "give one of them"),
    (["evaluate", "half"], "model.safetensors is not there yet"),
    (["evaluate", "torn"], "cannot be read as safetensors"),
    (["evaluate", "unfit"], "does not fit the network"),
    (["generate"], "RUN"),
    (["generate", "run", "--length", "-1"], "--length is -1"),
    (["generate", "run", "--temperature", "-1"], "--temperature is -1"),
    (["generate", "run", "--top-p", "0"], "--top-p is 0"),
    (["generate", "run", "--top-k", "x"], "invalid int value"),
    (["generate", "run", "--seed", "-1"], "--seed is -1"),
    (["generate", "run", "--context", "1", "--prompt", "a"], "--context 1 is too small"),
    (["generate", "run", "--context", "0"], "--context 0 is too small"),
    (["train", "--resume", "run", "--extend", "--steps", "1"], "run has spent a budget of training.steps 1 already"),
    (["train", "--resume", "edited"], "does not fit the network that config.toml describes"),
    ([*TRAIN, "--seed", "18446744073709551616"], "training.seed is 18446744073709551616; it must be below 2^63"),
    ([*TRAIN, "--model.rotary-base", "nan"], "model.rotary_base is nan"),
    (["generate", "run", "--draft", "magic"], "invalid choice"),
    (["inspect", "nowhere"], "no recipe called 'nowhere'"),
    (["inspect", "run", "--layers", "3"], "run is a run"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLADDER_CACHE", str(folder / "cache"))
        Path("text").write_text("a ladder has rungs. " * 300)
        Path("empty").touch()
        Path("short").write_text("too short")
        Path("broken.gz").write_bytes(b"not gzip at all")
        Path("taken").mkdir()
        Path("bad.toml").write_text("[model\n")
        Path("field.toml").write_text("[model]\nlayer = 3\n")
        Path("type.toml").write_text('[model]\nlayers = "six"\n')
        Path("future.toml").write_text("format_version = 99\n")
        for run in ("run", "half", "torn", "unfit", "edited"):
            assert main(["train", "text", *TINY, "--run", run]) == 0
        config = Path("edited/config.toml")
        config.write_text(config.read_text().replace("width = 16", "width = 32"))
        Path("half/model.safetensors").unlink()
        Path("torn/model.safetensors").write_bytes(b"\xff" * 40)
        Path("unfit/model.safetensors").write_bytes(Path("unfit/heads.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_gets_one_sentence_and_leaves_everything_as_it_was(place, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if "cache" not in path.parts}
    assert main(words) == 2
    said = capsys.readouterr()
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("charladder: ")
    assert sentence in lines[0]
    assert said.out == ""
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*") if "cache" not in path.parts} == before


def test_data_that_has_changed_is_noticed(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    Path("other").write_text("a ladder has rungs. " * 300)
    assert main(["train", "other", *TINY, "--run", "changed"]) == 0
    Path("other").write_text("A ladder has rungs. " * 300)
    capsys.readouterr()
    for words in (["train", "--resume", "changed"], ["evaluate", "changed"]):
        assert main(words) == 2
        assert "has changed since changed began" in capsys.readouterr().err


def test_a_context_beyond_the_trained_one(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["evaluate", "run", "--context", "32"]) == 0
    assert "trained at context 16" in capsys.readouterr().err
    paper = ["--model.block", "paper", "--model.positions", "tables"]
    assert main(["train", "text", *TINY, *paper, "--run", "tables"]) == 0
    for verb in ("evaluate", "generate"):
        assert main([verb, "tables", "--context", "32"]) == 2
        assert "position tables" in capsys.readouterr().err
