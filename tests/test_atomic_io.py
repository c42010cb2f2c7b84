"""Files that several processes write at the same time, and temporary files of killed processes."""

import os
import time

import pytest

from charladder.atomic_io import atomic_write, remove_stale_parts


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
