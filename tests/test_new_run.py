"""The creation of a run directory."""

import os
import platform
import re
from pathlib import Path

from charladder.cli.main import main
from charladder.run_creation import make_temporary_folder


def temporary_folder(process_id: int) -> Path:
    host = re.sub(r"\W", "", platform.node())
    return Path(f".run.{host}-{process_id}.part")


def test_the_temporary_folder_of_an_earlier_process_with_the_same_id_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, of_running_process = temporary_folder(os.getpid()), temporary_folder(os.getppid())
    for folder in (own, of_running_process):
        folder.mkdir()
        (folder / "config.toml").touch()
    assert make_temporary_folder(Path("run")) == own
    assert list(own.iterdir()) == []
    assert [file.name for file in of_running_process.iterdir()] == ["config.toml"]


def test_a_directory_whose_name_is_not_utf_8_is_refused(tmp_path, monkeypatch, text_file, capsys):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"run-\xff")
    tiny = ["--layers", "1", "--width", "16", "--context", "16", "--batch", "2", "--steps", "1", "--score", "none"]
    assert main(["train", str(text_file), "--run", name, *tiny]) == 2
    assert r"the name of the run directory 'run-\udcff' is not UTF-8" in capsys.readouterr().err
    assert not Path(name).exists()
    Path(name).mkdir()
    assert main(["evaluate", name]) == 2
    assert "is not UTF-8" in capsys.readouterr().err
