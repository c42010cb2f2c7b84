"""User errors: one sentence, exit code 2, no traceback, and no file created or changed."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from caches import new_cache
from charladder.cli.main import main
from charladder.run import open_run
from charladder.text import download, text_path
from helpers import edit_config

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2"]
TRAIN = ["train", "text", "--steps", "2"]

USER_ERRORS = [
    (["trian"], "there is no command 'trian'; did you mean train?"),
    (["train", "missing.txt", "--steps", "2"], "no file or corpus called 'missing.txt'"),
    (["train", "empty", "--steps", "2"], "empty is empty"),
    (["train", "short", "--steps", "2"], "fewer than one window of 32"),
    (["train", "broken.gz", "--steps", "2"], "broken.gz cannot be unpacked"),
    (["train", "taken", "--steps", "2"], "the folder taken has no files"),
    ([*TRAIN, "--run", "taken"], "taken exists and a run is never overwritten"),
    ([*TRAIN, "--run", "text/below"], "text/below cannot be made"),
    ([*TRAIN, "--widht", "64"], "no option --widht; did you mean --width?"),
    ([*TRAIN, "--objective.target", "2"], "did you mean --objective.targets?"),
    ([*TRAIN, "--lr", "0.1"], "no option --lr; did you mean --training.learning-rate?"),
    ([*TRAIN, "--batch-size", "8"], "no option --batch-size; did you mean --batch?"),
    ([*TRAIN, "--clip", "1"], "no option --clip; did you mean --training.clip?"),
    ([*TRAIN, "--training.lr", "0.1"], "no option --training.lr; did you mean --training.learning-rate?"),
    ([*TRAIN, "--model.optimizer", "adamw"], "did you mean --training.optimizer?"),
    (["refit", "run", "--lr", "0.1"], "no option --lr; did you mean --rate?"),
    ([*TRAIN, "--recipe", "lr.toml"], "unknown field 'training.lr'; did you mean training.learning_rate?"),
    ([*TRAIN, "extra"], "no file or corpus called 'extra'"),
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
    ([*TRAIN, "--device", "cuda:77"], "--device is 'cuda:77'; this machine has only"),
    ([*TRAIN, "--device", "tpu"], "tpu"),
    ([*TRAIN, "--precision", "int8"], "must be one of auto, float32, bfloat16"),
    ([*TRAIN, "--recipe", "laddder"], "no recipe called 'laddder'; did you mean ladder?"),
    ([*TRAIN, "--recipe", "none.toml"], "recipe none.toml cannot be read"),
    ([*TRAIN, "--recipe", "bad.toml"], "bad.toml is not valid TOML"),
    ([*TRAIN, "--recipe", "field.toml"], "unknown field 'model.layer'; did you mean model.layers?"),
    ([*TRAIN, "--recipe", "type.toml"], "model.layers is 'six'; it must be a whole number"),
    ([*TRAIN, "--recipe", "future.toml"], "format_version 99, and this version reads 2"),
    (["train", "text", "--steps", "0"], "exactly one budget"),
    (["train", "text", "--minutes", "-1"], "a budget must be above 0"),
    (["train", "text", "--minutes", "nan"], "a budget must be above 0"),
    (["train", "text", "--steps", "2", "--minutes", "2"], "a run has one budget"),
    ([*TRAIN, "--valid", "1.5"], "text.valid is 1.5; it must be a whole number"),
    ([*TRAIN, "--valid", "5000", "--test", "5000"], "leave none to train on"),
    ([*TRAIN, "--layers"], "expected one argument"),
    ([*TRAIN, "--extend"], "--extend changes the budget of a run that exists"),
    (["train", "--resume", "nowhere"], "there is no run directory nowhere"),
    (["train", "--resume", "taken"], "taken is not a run directory"),
    (["train", "--resume", "run", "--layers", "3"], "model.layers is given"),
    (["train", "--resume", "run", "--steps", "9"], "needs --extend"),
    (["train", "text", "--resume", "run"], "leave out --run, --recipe and DATA"),
    (["evaluate", "nowhere"], "there is no run directory nowhere"),
    (["evaluate", "lettred"], "there is no run directory lettred; did you mean lettered?"),
    (["generate", "runs/ladder1"], "there is no run directory runs/ladder1; did you mean runs/ladder-1?"),
    (["export", "ladder-1", "--to", "hf"], "there is no run directory ladder-1; did you mean runs/ladder-1?"),
    (["evaluate", "taken"], "not a run directory"),
    (["evaluate", "run", "--stride", "0"], "--stride is 0; it must be between 1 and the context"),
    (["evaluate", "run", "--stride", "17"], "--stride is 17; it must be between 1 and the context"),
    (["evaluate", "run", "--context", "0"], "--context 0 is too small"),
    (["evaluate", "run", "--limit", "0"], "--limit is 0"),
    (["evaluate", "run", "--split", "train"], "invalid choice"),
    (["evaluate", "run", "text", "--split", "test"], "give one of them"),
    (["evaluate", "half"], "model.safetensors is not there yet"),
    (["evaluate", "torn"], "cannot be read as safetensors"),
    (["evaluate", "unfit"], "does not fit the network"),
    (["score"], "the following arguments are required: RUN"),
    (["score", "nowhere", "text"], "there is no run directory nowhere"),
    (["score", "half", "text"], "model.safetensors is not there yet"),
    (["score", "run", "gone"], "no file or corpus called 'gone'"),
    (["score", "run", "broken.gz"], "broken.gz cannot be unpacked"),
    (["score", "run", "text", "--top", "0"], "--top is 0; it must be between 1 and 10,000"),
    (["score", "run", "text", "--output", "text"], "--output is text; it must end in .jsonl or .parquet"),
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
    (
        [*TRAIN, "--seed", "18446744073709551616"],
        "training.seed is '18446744073709551616'; it must be a whole number below 2^64",
    ),
    ([*TRAIN, "--seed", "9223372036854775808"], "training.seed is 9223372036854775808; it must be below 2^63"),
    ([*TRAIN, "--model.rotary-base", "nan"], "model.rotary_base is nan"),
    (["generate", "run", "--draft", "magic"], "invalid choice"),
    (["inspect", "nowhere"], "no recipe called 'nowhere'"),
    (["inspect", "run", "--layers", "3"], "run is a run"),
    # texts
    (["train", "http://127.0.0.1:9/x", "--steps", "2"], "cannot be downloaded: no connection"),
    (["train", "*.none", "--steps", "2"], "no file matches '*.none'"),
    (["train", "text", "gone", "--steps", "2"], "no file or corpus called 'gone'"),
    (["train", "txet8", "--steps", "2"], "did you mean text8?"),
    (["train", "/dev/zero", "--steps", "2"], "/dev/zero is a device"),
    (["train", "dangling", "--steps", "2"], "it is a link to nothing"),
    (["train", "bomb.gz", "--steps", "2"], "bomb.gz unpacks to more than 200 times its size"),
    (["train", "bomb.zip", "--steps", "2"], "bomb.zip unpacks to more than 200 times its size"),
    (["train", "evil.tar", "--steps", "2"], "evil.tar holds '../evil', a path that leaves the archive"),
    (["train", "evil.zip", "--steps", "2"], "evil.zip holds '/evil', a path that leaves the archive"),
    (["train", "broken.zip", "--steps", "2"], "broken.zip cannot be unpacked"),
    (["train", "broken.tar", "--steps", "2"], "broken.tar cannot be unpacked"),
    (["train", "broken.xz", "--steps", "2"], "broken.xz cannot be unpacked"),
    (["train", "broken.bz2", "--steps", "2"], "broken.bz2 cannot be unpacked"),
    (["train", "broken.zst", "--steps", "2"], "broken.zst cannot be unpacked"),
    (["train", "cut.gz", "--steps", "2"], "cut.gz cannot be unpacked"),
    (["train", "empties", "--steps", "2"], "empties is empty"),
    (["train", "empty.zip", "--steps", "2"], "empty.zip is empty"),
    ([*TRAIN, "--encoding", "klingon"], "no text encoding called 'klingon'"),
    (["train", "latin", "--encoding", "ascii", "--steps", "2"], "latin is not ascii at byte 1"),
    (["train", "latin", "--alphabet", "letters", "--steps", "2"], "latin is not UTF-8 at byte 1"),
    (["train", "chinese", "--alphabet", "letters", "--steps", "2"], "chinese has 300 different characters"),
    (["train", "chinese", "--alphabet", "text8", "--steps", "2"], "which is not among the 27 letters"),
    (
        ["train", "chinese", "--alphabet", "text8", "--unknown", "drop", "--steps", "2"],
        "has no letter of this alphabet",
    ),
    ([*TRAIN, "--alphabet", "runes"], "text.alphabet is 'runes'; it must be one of bytes, letters, unicode, text8"),
    ([*TRAIN, "--unknown", "ignore"], "text.unknown is 'ignore'; it must be one of error, replace, drop"),
    ([*TRAIN, "--boundaries", "maybe"], "text.boundaries is 'maybe'; it must be one of cross, keep"),
    (["train", "pieces", "--boundaries", "keep", "--steps", "2"], "the longest file of the training part has 63"),
    ([*TRAIN, "--valid", "nan"], "text.valid is nan; it must be a whole number of characters or a fraction below 1"),
    ([*TRAIN, "--valid", "-3"], "text.valid is -3; it must be a whole number"),
    ([*TRAIN, "--layers", "4096", "--width", "4096"], "this network cannot be trained here"),
    ([*TRAIN, "--batch", "1000000000"], "this network cannot be trained here"),
    ([*TRAIN, "--recipe", "data.toml"], "text.data is 5; it must be a list of texts"),
    ([*TRAIN, "--recipe", "latin.toml"], "latin.toml is not valid TOML"),
    ([*TRAIN, "--recipe", "section.toml"], "unknown section 'modell'; did you mean model?"),
    # runs
    (["train", "--resume", "future"], "format_version 99, and this version reads 2"),
    (["evaluate", "future"], "format_version 99, and this version reads 2"),
    (["generate", "future"], "format_version 99, and this version reads 2"),
    (["inspect", "future"], "format_version 99, and this version reads 2"),
    (["evaluate", "headless"], "headless is not a run directory, because it has no config.toml"),
    (["generate", "headless"], "not a run directory"),
    (["train", "--resume", "headless"], "not a run directory"),
    (["generate", "half"], "model.safetensors is not there yet"),
    (["generate", "torn"], "cannot be read as safetensors"),
    (["generate", "unfit"], "does not fit the network"),
    (["generate", "text"], "text is a file; give the run directory that `charladder train` created"),
    (
        ["evaluate", "moved"],
        "if the text of moved has moved, give its path (--data)",
    ),
    (["train", "--resume", "moved"], "there is no file or corpus called"),
    (["evaluate", "moved", "--data", "text"], "text is not the text that moved was trained on (SHA-256"),
    (["refit", "moved", "--data", "text", "--steps", "1"], "text is not the text that moved was trained on (SHA-256"),
    (["train", "--resume", "moved", "--data", "text"], "text is not the text that moved was trained on (SHA-256"),
    (["train", "--resume", "moved", "--data", "gone"], "no file or corpus called 'gone'"),
    (["evaluate", "run", "text", "--data", "text"], "--data is where the run's text is now, and DATA is another"),
    ([*TRAIN, "--data", "text"], "--data is where the text of a run is now, and needs --resume RUN"),
    (["evaluate", "run", "gone"], "no file or corpus called 'gone'"),
    (["evaluate", "run", "empty"], "empty is empty"),
    (["evaluate", "run", "--unknown", "drop"], "--encoding and --unknown are for DATA"),
    (["evaluate", "run", "text", "--encoding", "klingon"], "no text encoding called 'klingon'"),
    (["evaluate", "lettered", "chinese"], "which is not among the"),
    (
        ["evaluate", "lettered", "text", "--unknown", "replace"],
        "only an alphabet learned with `replace` has",
    ),
    (["evaluate", "run", "--context", "x"], "invalid int value"),
    (["evaluate", "run", "--device", "tpu"], "tpu"),
    (["evaluate"], "RUN"),
    (["generate", "lettered", "--prompt", "Ω"], "the prompt has the character 'Ω' at position 0"),
    (["generate", "lettered", "--prompt", "Ω", "--unknown", "replace"], "only an alphabet learned with `replace` has"),
    (["generate", "run", "--min-p", "2"], "--min-p is 2"),
    (["generate", "run", "--top-k", "-1"], "--top-k is -1"),
    (["generate", "run", "--lenght", "3"], "no option --lenght; did you mean --length?"),
    (["inspect", "t12", "--recipe", "t64"], "RUN|RECIPE and --recipe are both given"),
    (["inspect", "t12", "--layers", "x"], "model.layers is 'x'"),
    (["inspect", "bad.toml"], "bad.toml is not valid TOML"),
    (["corpora", "text9"], "there is no corpus called 'text9'; did you mean text8?"),
    (["corpora", "--download"], "--download needs the NAME of a corpus or a URL"),
    (["corpora", "http://127.0.0.1:9/x"], "a URL needs --download"),
    (["corpora", "http://127.0.0.1:9/x", "--download"], "cannot be downloaded: no connection"),
    (["corpora", "text8", "enwik8"], "has no use for the argument 'enwik8'"),
    (["corpora", "--dry-run"], "--days and --dry-run need --prune"),
    (["corpora", "text8", "--prune"], "--prune is for the whole cache; leave out NAME"),
    (["corpora", "--prune", "--days", "-1"], "--days is -1; it must be a number of at least 0"),
    (["corpora", "--prune", "--days", "nan"], "--days is nan; it must be a number of at least 0"),
    (["copora"], "there is no command 'copora'; did you mean corpora?"),
    # other
    (["train", "", "--steps", "2"], "DATA is an empty name"),
    (["evaluate", "run", ""], "DATA is an empty name"),
    (["train", "--resume", ""], ". is not a run directory"),
    ([*TRAIN, "--recipe", ""], "there is no recipe called ''"),
    ([*TRAIN, "--run", ""], ". exists and a run is never overwritten"),
    ([*TRAIN, "--width", "1" + "0" * 12], "model.width is 1000000000000; it must be at most"),
    ([*TRAIN, "--model.feed-forward", "1" + "0" * 18], "model.feed_forward is 1000000000000000000; it must be at most"),
    ([*TRAIN, "--layers", "1" + "0" * 400], "it must be a whole number below 2^64"),
    ([*TRAIN, "--batch", "1" + "0" * 400], "it must be a whole number below 2^64"),
    ([*TRAIN, "--objective.targets", "1000000"], "objective.targets is 1000000; it must be at most 256"),
    (
        [*TRAIN, "--objective.targets", "1", "--objective.target-heads", "chained"],
        "objective.target_heads is chained, and objective.targets is 1, so there is no chained module; set targets to",
    ),
    ([*TRAIN, "--encoding", "punycode"], "no text encoding called 'punycode'"),
    (["train", "text", "--steps", "1" + "0" * 400], "it must be a whole number below 2^64"),
    (["generate", "run", "--context", "9" * 20], "is too large; it must be at most"),
    (["export", "run"], "the following arguments are required: --to"),
    (["export", "run", "--to", "onnx"], "invalid choice: 'onnx'"),
    (["export", "run", "taken", "--to", "hf"], "taken exists and is not overwritten"),
    (["export", "run", "text", "--to", "gguf"], "text exists and is not overwritten"),
    (["export", "run", "text/below", "--to", "hf"], "the folder text/below cannot be made"),
    (["export", "run", "", "--to", "hf"], "PATH is an empty name"),
    (["export", "run", "--to", "gguf", "--heads"], "--heads is for --to hf"),
    (["export", "half", "--to", "hf"], "model.safetensors is not there yet"),
    (["export", "ngrams", "--to", "hf"], "it has n-gram embeddings (model.ngrams is 3), for which Qwen3"),
    (["export", "paper", "--to", "gguf"], "it has LayerNorm, ReLU and biases (model.block is paper), for which Qwen3"),
    (["export", "plain", "--to", "hf", "--heads"], "plain has no auxiliary heads"),
    (["import", "nowhere"], "there is no folder nowhere"),
    (["import", "taken"], "taken has no config.json; give a folder that"),
    (["import", "run"], "run is a run directory already"),
    (["import", ""], "DIR is an empty name"),
    (["serve"], "the following arguments are required: RUN"),
    (["evaluate"], "the following arguments are required: RUN"),
    (["study"], "the following arguments are required: PLAN"),
    (["serve", "nowhere"], "there is no run directory nowhere"),
    (["serve", "run", "--port", "70000"], "--port is 70000; it must be between 0 and 65535"),
    (["serve", "run", "--streams", "0"], "--streams is 0; it must be between 1 and 4,096"),
    (["serve", "run", "--max-tokens", "0"], "--max-tokens is 0; it must be between 1"),
    (["serve", "run", "--seconds", "nan"], "--seconds is nan; it must be above 0"),
    (["serve", "run", "--token-file", "missing"], "--token-file missing cannot be read"),
    (["serve", "run", "--token-file", "empty"], "--token-file empty is empty"),
    (["serve", "run", "--token-file", "text"], "the token must be printable ASCII without blanks"),
    (["serve", "run", "--host", "203.0.113.1", "--port", "0"], "cannot listen at 203.0.113.1, port 0"),
    (["serve", "run", "--host", ""], "--host is empty"),
    (["serve", "run", "--device", "tpu"], "tpu"),
    (["generate", "run", "--temperature", "1e-310"], "give 0, which is greedy, or at least 1e-06"),
    (["train", "--resume", "other-optimizer"], "does not fit the network that config.toml describes"),
    ([*TRAIN, "--recipe", "deep.toml"], "deep.toml is not valid TOML"),
    ([*TRAIN, "--recipe", "long.toml"], "long.toml is not valid TOML"),
    ([*TRAIN, "--recipe", "large.toml"], "text.valid is 1"),
    (["corpora", "http://127.0.0.1:9/\udcff", "--download"], "cannot be downloaded"),
    (["train", "cut.tar", "--steps", "2"], "cut.tar cannot be unpacked"),
    (["train", "more.tar", "--steps", "2"], "there is more after its end"),
    (["--verbose"], "there is no command '--verbose'"),
    (["compress"], "FILE is missing; give RUN and FILE, or --online and FILE"),
    (["compress", "run"], "FILE is missing; give RUN and FILE, or --online and FILE"),
    (["compress", "nowhere", "text"], "there is no run directory nowhere"),
    (["compress", "run", "gone"], "gone: No such file or directory"),
    (["compress", "run", "taken", "new"], "taken is not a regular file"),
    (["compress", "run", "text", "short"], "short exists and is not overwritten"),
    (["compress", "run", "text", "gone/new"], "there is no folder gone for new; make it first"),
    (["compress", "--online", "run", "text"], "run is a folder"),
    (["compress", "torn", "text"], "cannot be read as safetensors"),
    (["compress", "--online", "run", "text", "new"], "there is no use for the argument 'new': --online takes FILE and"),
    (["compress", "--online", "text", "--weights", "best"], "--weights is for a run, and --online uses none"),
    (["decompress"], "FILE is missing; give FILE"),
    (["decompress", "run"], "FILE is missing; give FILE"),
    (["decompress", "text"], "text does not end in .clz"),
    (["decompress", "text", "new"], "text was not written by charladder compress"),
    (["decompress", "short.clz"], "short.clz is cut short"),
]


def make_texts() -> None:
    """Creates texts that cannot be read or trained on, and some that are unusual."""
    Path("dangling").symlink_to("nowhere")
    Path("bomb.gz").write_bytes(gzip.compress(bytes(80 << 20)))
    with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(80 << 20))
    with zipfile.ZipFile("evil.zip", "w") as archive:
        archive.writestr("/evil", "x")
    with zipfile.ZipFile("empty.zip", "w"):
        pass
    with tarfile.open("evil.tar", "w") as archive:
        member = tarfile.TarInfo("../evil")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    with tarfile.open("good.tar", "w") as archive:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}")
            member.size = 3000
            archive.addfile(member, io.BytesIO(b"x" * 3000))
    good = Path("good.tar").read_bytes()
    Path("cut.tar").write_bytes(good[:3584])
    Path("more.tar").write_bytes(good + good)
    for suffix in ("zip", "tar", "xz", "bz2", "zst"):
        Path(f"broken.{suffix}").write_bytes(b"not packed at all" * 50)
    Path("cut.gz").write_bytes(gzip.compress(bytes(range(256)) * 9)[:-20])
    Path("empties").mkdir()
    Path("empties/one").touch()
    Path("pieces").mkdir()
    for number in range(50):
        Path(f"pieces/{number}").write_text("a ladder has layers. " * 3)
    Path("latin").write_bytes(b"g\xf6del" * 300)
    Path("chinese").write_text("".join(map(chr, range(0x4E00, 0x4E00 + 300))))


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        Path("text").write_text("a ladder has layers. " * 300)
        Path("empty").touch()
        Path("short").write_text("too short")
        Path("broken.gz").write_bytes(b"not gzip at all")
        Path("taken").mkdir()
        Path("runs/ladder-1").mkdir(parents=True)
        Path("runs/ladder-1/config.toml").touch()
        Path("runs/ladder-0").mkdir()  # not a run
        Path("short.clz").write_bytes(b"CLZ\x01")
        Path("bad.toml").write_text("[model\n")
        Path("field.toml").write_text("[model]\nlayer = 3\n")
        Path("type.toml").write_text('[model]\nlayers = "six"\n')
        Path("future.toml").write_text("format_version = 99\n")
        Path("data.toml").write_text("[text]\ndata = 5\n")
        Path("latin.toml").write_bytes(b"[text]\ndata = '\xe4'\n")
        Path("lr.toml").write_text("[training]\nlr = 0.1\n")
        Path("section.toml").write_text("[modell]\nlayers = 3\n")
        Path("deep.toml").write_text("a = " + "[" * 20_000)
        Path("long.toml").write_text("[text]\nvalid = " + "1" * 5000)
        Path("large.toml").write_text("[text]\nvalid = 1" + "0" * 400)
        make_texts()
        Path("away").write_text("a ladder has layers, and more. " * 300)
        assert main(["train", "away", *TINY, "--run", "moved"]) == 0
        Path("away").unlink()
        text_path(open_run(Path("moved")).recipe.text.sha256).unlink()
        assert main(["train", "text", *TINY, "--run", "lettered", "--alphabet", "letters"]) == 0
        for run in ("run", "half", "torn", "unfit", "edited", "future", "headless", "other-optimizer"):
            assert main(["train", "text", *TINY, "--run", run]) == 0
        for run, *fields in (
            ("ngrams", "--model.ngrams", "3", "--model.ngram-rows", "8"),
            ("paper", "--model.block", "paper", "--model.positions", "tables"),
            ("plain", "--objective.intermediate", "false", "--objective.targets", "1"),
        ):
            assert main(["train", "text", *TINY, *fields, "--run", run]) == 0
        Path("headless/config.toml").unlink()
        edit_config(Path("other-optimizer"), 'optimizer = "muon"', 'optimizer = "adamw"')
        config = Path("future/config.toml")
        config.write_text(config.read_text().replace("format_version = 2", "format_version = 99"))
        edit_config(Path("edited"), "\nwidth = 16", "\nwidth = 32")
        Path("half/model.safetensors").unlink()
        Path("torn/model.safetensors").write_bytes(b"\xff" * 40)
        Path("unfit/model.safetensors").write_bytes(Path("unfit/heads.safetensors").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"), USER_ERRORS, ids=[" ".join(arguments) for arguments, _ in USER_ERRORS]
)
def test_user_error_prints_one_sentence_and_changes_no_file(runs_folder, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(runs_folder)
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.001)
    before = {
        path: path.lstat().st_mtime_ns
        for path in runs_folder.rglob("*")
        if "cache" not in path.parts and path.name != ".lock"
    }
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("charladder: ")
    assert message in lines[0]
    assert captured.out == ""
    assert {
        path: path.lstat().st_mtime_ns
        for path in runs_folder.rglob("*")
        if "cache" not in path.parts and path.name != ".lock"
    } == before


def test_context_longer_than_in_training(runs_folder, monkeypatch, capsys):
    monkeypatch.chdir(runs_folder)
    assert main(["evaluate", "run", "--context", "32"]) == 0
    assert "trained at context 16" in capsys.readouterr().err
    paper = ["--model.block", "paper", "--model.positions", "tables"]
    assert main(["train", "text", *TINY, *paper, "--run", "tables"]) == 0
    for command in ("evaluate", "generate"):
        assert main([command, "tables", "--context", "32"]) == 2
        assert "position tables" in capsys.readouterr().err
