"""The text of a run is found again by its checksum: in the cache, or where --data says that it is."""

import json
import shutil
from pathlib import Path

import pytest

from caches import new_cache
from charladder.cli.main import main
from charladder.run import open_data, open_run
from charladder.text import cache_folder, text_path

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "3", "--json"]
TEXT = "a ladder has layers, größer und kleiner. " * 300


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLADDER_CACHE", new_cache(tmp_path / "cache"))
    Path("text").write_text(TEXT)
    return tmp_path


def done(capsys, *words: str) -> tuple[dict, str]:
    """What a command says in JSON, and what it says on standard error."""
    capsys.readouterr()
    assert main([*words]) == 0
    said = capsys.readouterr()
    return json.loads(said.out), said.err


@pytest.mark.parametrize("change", ["moved", "changed"])
@pytest.mark.parametrize("words", [[], ["--alphabet", "letters"]], ids=["bytes", "letters"])
def test_the_copy_in_the_cache_is_used_and_a_note_says_so(here, capsys, change, words):
    assert main(["train", "text", *TINY, *words, "--run", "run"]) == 0
    before, said = done(capsys, "evaluate", "run", "--json")
    assert "note" not in said
    Path("text").rename("elsewhere")
    if change == "changed":
        Path("text").write_text(TEXT.upper() + "Ω")
    sentence = {
        "moved": f"{here}/text cannot be read any more; the earlier text is read from the cache",
        "changed": f"{here}/text has changed; the earlier text is read from the cache",
    }[change]
    after, said = done(capsys, "evaluate", "run", "--json")
    assert sentence in said
    assert {**after, "seconds": 0} == {**before, "seconds": 0}
    resumed, said = done(capsys, "train", "--resume", "run", "--extend", "--steps", "5", "--json")
    assert (resumed["steps"], sentence in said) == (5, True)
    assert sentence in done(capsys, "refit", "run", "--steps", "1", "--json")[1]


def test_where_the_cache_has_no_copy_data_says_where_the_text_is(here, capsys):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    before, _ = done(capsys, "evaluate", "run", "--json")
    config = Path("run/config.toml").read_bytes()
    Path("text").rename("elsewhere")
    shutil.rmtree(cache_folder())
    for words in (["evaluate", "run"], ["train", "--resume", "run"], ["refit", "run", "--steps", "1"]):
        assert main(words) == 2
        assert "give its path (--data)" in capsys.readouterr().err
        Path("elsewhere2").write_text(TEXT + "!")
        assert main([*words, "--data", "elsewhere2"]) == 2
        assert "elsewhere2 is not the text that run was trained on (SHA-256" in capsys.readouterr().err
        found, _ = done(capsys, *words, "--data", "elsewhere", "--json")
        assert found.get("bits_per_character", 0) == (before["bits_per_character"] if words[0] == "evaluate" else 0)
        shutil.rmtree(cache_folder())
    assert Path("run/config.toml").read_bytes() == config
    Path("text").write_text(TEXT.upper())
    for words in (["evaluate", "run"], ["train", "--resume", "run"]):
        assert main(words) == 2
        assert f"{here}/text has changed since run began" in capsys.readouterr().err
    assert main(["evaluate", "run", "--data", "elsewhere"]) == 0
    assert main(["evaluate", "run"]) == 0, "from here on the cache has it"


def test_a_damaged_copy_is_not_used(here, capsys):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    copy = text_path(open_run(Path("run")).recipe.text.sha256)
    Path("text").unlink()
    copy.write_bytes(copy.read_bytes()[:-1] + b"!")
    assert main(["evaluate", "run"]) == 2
    assert "the cache has no copy of the text either" in capsys.readouterr().err


def test_the_files_of_a_text_are_known_where_windows_keep_to_them(here, capsys):
    Path("folder").mkdir()
    for number in range(3):
        Path(f"folder/{number}").write_text(f"file {number} of a ladder with layers. " * (50 + number))
    assert main(["train", "folder", *TINY, "--boundaries", "keep", "--run", "run"]) == 0
    ends = open_data(open_run(Path("run"))).ends_F.tolist()
    Path("folder").rename("moved")
    assert open_data(open_run(Path("run"))).ends_F.tolist() == ends
    shutil.rmtree(cache_folder())
    assert open_data(open_run(Path("run")), data=["moved"]).ends_F.tolist() == ends
    for note in (cache_folder() / "sources").glob("*.json"):
        note.unlink()
    assert main(["evaluate", "run"]) == 2
    assert "has 1 files now and had 3 when run began" in capsys.readouterr().err
