"""Safetensors files are written atomically, are equal for equal tensors, and leave no temporary files."""

import os
import stat
from pathlib import Path

import pytest
import torch

from charladder.atomic_io import atomic_write, write_text
from charladder.training.loop import remove_partial_files
from charladder.training.tensor_files import check_length, load_tensors, save_tensors


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_file_modes_follow_the_umask(tmp_path, umask):
    save_tensors(tmp_path / "weights", {"a": torch.ones(2)})
    write_text(tmp_path / "text", "word")
    assert [stat.S_IMODE(path.stat().st_mode) for path in sorted(tmp_path.iterdir())] == [0o640, 0o640]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_files(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(file) as part:
        part.write_text("new")
        part.with_name(".tmp123").write_text("temporary file of a library")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "old"


def write_and_die(path: Path) -> None:
    """Starts a process that ends within `atomic_write`, and leaves its temporary folder with a file."""
    child = os.fork()
    if child == 0:
        with atomic_write(path) as part:
            part.write_text("half")
            part.with_name(".tmp123").write_text("half")
            os._exit(0)
    os.waitpid(child, 0)


def test_temporary_files_of_a_killed_process_are_removed_by_the_next_write(tmp_path):
    file = tmp_path / "weights"
    write_and_die(file)
    assert [path.name for path in tmp_path.rglob(".tmp*")] == [".tmp123"]
    save_tensors(file, {"a": torch.ones(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert load_tensors(file)["a"].tolist() == [1, 1]


def test_a_link_with_the_name_of_the_temporary_folder_is_not_followed(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "kept").touch()
    (tmp_path / ".file.part").symlink_to(tmp_path / "other")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new" and (tmp_path / "other" / "kept").exists()


def test_remove_partial_files_removes_all_temporary_files(tmp_path):
    write_and_die(tmp_path / "weights")
    (tmp_path / ".tmpabc").touch()  # of safetensors, in version 0.1.0
    (tmp_path / "metrics.jsonl").touch()
    remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_equal_tensors_and_metadata_give_equal_files(tmp_path):
    """safetensors writes metadata in a random order, which would change the SHA-256 of the file."""
    metadata = {"run": "1f", "step": "3", "bits_per_character": "2.5", "größe": 'a "b"'}
    contents = set()
    for _ in range(8):
        save_tensors(tmp_path / "weights", {"a": torch.arange(3.0), "b": torch.ones(2)}, metadata)
        contents.add((tmp_path / "weights").read_bytes())
    assert len(contents) == 1
    assert load_tensors(tmp_path / "weights")["a"].tolist() == [0, 1, 2]


def test_a_file_longer_than_its_header_says_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(2)})
    check_length(path)
    os.truncate(path, 1 << 40)  # a sparse file: no space on the disk, but hours to read
    with pytest.raises(ValueError, match="longer than its header says"):
        check_length(path)
    path.write_bytes((1 << 40).to_bytes(8, "little"))
    with pytest.raises(ValueError, match="header is longer"):
        check_length(path)
