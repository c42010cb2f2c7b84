"""The text of a run that has moved or changed: the copy in the cache, and --data."""

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
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLADDER_CACHE", new_cache(tmp_path / "cache"))
    Path("text").write_text(TEXT)
    return tmp_path


def run_json(capsys, *arguments: str) -> tuple[dict, str]:
    """Runs a command; returns its JSON object and its standard error."""
    capsys.readouterr()
    assert main([*arguments]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


@pytest.mark.parametrize("change", ["moved", pytest.param("changed", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "arguments",
    [pytest.param([], id="bytes"), pytest.param(["--alphabet", "letters"], id="letters", marks=pytest.mark.slow)],
)
def test_cached_copy_is_used_with_a_note(workdir, capsys, change, arguments):
    assert main(["train", "text", *TINY, *arguments, "--run", "run"]) == 0
    before, err = run_json(capsys, "evaluate", "run", "--json")
    assert "note" not in err
    Path("text").rename("elsewhere")
    if change == "changed":
        Path("text").write_text(TEXT.upper() + "Ω")
    note_text = {
        "moved": f"{workdir}/text cannot be read any more; the earlier text is read from the cache",
        "changed": f"{workdir}/text has changed; the earlier text is read from the cache",
    }[change]
    after, err = run_json(capsys, "evaluate", "run", "--json")
    assert note_text in err
    assert {**after, "seconds": 0} == {**before, "seconds": 0}
    resumed, err = run_json(capsys, "train", "--resume", "run", "--extend", "--steps", "5", "--json")
    assert (resumed["steps"], note_text in err) == (5, True)
    assert note_text in run_json(capsys, "refit", "run", "--steps", "1", "--json")[1]


def test_data_option_is_needed_without_a_cached_copy(workdir, capsys):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    before, _ = run_json(capsys, "evaluate", "run", "--json")
    config = Path("run/config.toml").read_bytes()
    Path("text").rename("elsewhere")
    shutil.rmtree(cache_folder())
    for arguments in (["evaluate", "run"], ["train", "--resume", "run"], ["refit", "run", "--steps", "1"]):
        assert main(arguments) == 2
        assert "give its path (--data)" in capsys.readouterr().err
        Path("elsewhere2").write_text(TEXT + "!")
        assert main([*arguments, "--data", "elsewhere2"]) == 2
        assert "elsewhere2 is not the text that run was trained on (SHA-256" in capsys.readouterr().err
        result, _ = run_json(capsys, *arguments, "--data", "elsewhere", "--json")
        assert result.get("bits_per_character", 0) == (
            before["bits_per_character"] if arguments[0] == "evaluate" else 0
        )
        shutil.rmtree(cache_folder())
    assert Path("run/config.toml").read_bytes() == config
    Path("text").write_text(TEXT.upper())
    for arguments in (["evaluate", "run"], ["train", "--resume", "run"]):
        assert main(arguments) == 2
        assert f"{workdir}/text has changed since run began" in capsys.readouterr().err
    assert main(["evaluate", "run", "--data", "elsewhere"]) == 0
    assert main(["evaluate", "run"]) == 0, "the cache has a copy now"


def test_damaged_cached_copy_is_not_used(workdir, capsys):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    copy = text_path(open_run(Path("run")).recipe.text.sha256)
    Path("text").unlink()
    copy.write_bytes(copy.read_bytes()[:-1] + b"!")
    assert main(["evaluate", "run"]) == 2
    assert "the cache has no copy of the text either" in capsys.readouterr().err


def test_file_ends_of_a_moved_text_are_known(workdir, capsys):
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
