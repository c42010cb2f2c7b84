"""The making of a run directory."""

import os
import platform
import re
from pathlib import Path

from charladder.run import own_part


def part_of_process(number: int) -> Path:
    host = re.sub(r"\W", "", platform.node())
    return Path(f".run.{host}-{number}.part")


def test_a_part_folder_of_an_earlier_process_with_the_same_number_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine, alive = part_of_process(os.getpid()), part_of_process(os.getppid())
    for left in (mine, alive):
        left.mkdir()
        (left / "config.toml").touch()
    assert own_part(Path("run")) == mine
    assert list(mine.iterdir()) == []
    assert [file.name for file in alive.iterdir()] == ["config.toml"]
