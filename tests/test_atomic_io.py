"""Files that several processes write at the same time, and temporary files of killed processes."""

import os
import time
from contextlib import nullcontext

import pytest

from charladder.atomic_io import FileAppeared, atomic_write, remove_stale_parts


def test_last_of_several_writers_wins(tmp_path):
    file = tmp_path / "file"
    with atomic_write(file, shared=True) as one:
        with atomic_write(file, shared=True) as other:
            assert one != other
            one.write_text("one")
            other.write_text("other")
        assert file.read_text() == "other" and one.read_text() == "one"
    assert file.read_text() == "one"
    assert list(tmp_path.iterdir()) == [file]


def test_a_second_writer_is_refused_and_harms_nothing(tmp_path):
    file = tmp_path / "file"
    with atomic_write(file) as part:
        part.write_text("whole")
        with pytest.raises(BlockingIOError, match="another process is writing this file"), atomic_write(file):
            pass
    assert file.read_text() == "whole" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_appears_meanwhile_stays(tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(os, "link", lambda part, path: (_ for _ in ()).throw(OSError(95, "Not supported")))
    file = tmp_path / "rows.jsonl"
    for number in (1, 2, 3):
        expected = f"rows.jsonl was made by another process meanwhile and is not overwritten; .*rows-{number}.jsonl"
        refused = nullcontext() if number == 1 else pytest.raises(FileAppeared, match=expected)
        with refused, atomic_write(file, overwrite=False) as part:
            part.write_text(str(number))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "rows.jsonl": "1", "rows-2.jsonl": "2", "rows-3.jsonl": "3"
    }  # fmt: skip
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileAppeared), atomic_write(tmp_path / "link", overwrite=False) as part:
        part.write_text("4")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "link-2").read_text() == "4"


def test_the_folder_of_a_killed_process_is_replaced(tmp_path):
    stale = tmp_path / ".file.part"
    for make in (stale.mkdir, stale.touch, lambda: stale.symlink_to(tmp_path)):
        make()
        with atomic_write(tmp_path / "file") as part:
            part.write_text("new")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_remove_stale_parts_keeps_recently_modified_files(tmp_path):
    """The age of a folder is that of the youngest file in it."""
    writers = []
    for name in ("old", "at-work"):
        writers.append(atomic_write(tmp_path / name, shared=True))  # garbage collection would remove the folder
        part = writers[-1].__enter__()
        part.write_text("half")
        for path in (part, part.parent):
            os.utime(path, (time.time() - 100,) * 2)
    part.write_text("more")
    os.utime(part.parent, (time.time() - 100,) * 2)
    (tmp_path / "other").touch()
    remove_stale_parts(tmp_path, seconds=50)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([part.parent.name, "other"])
    remove_stale_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
