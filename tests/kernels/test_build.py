"""Building of the C libraries: once, whole, verified before they are loaded, and decided once per process."""

import ctypes
import os
import pwd
import shlex
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from charladder.kernels import build, native
from charladder.recipe import resolve
from charladder.run_creation import plan_run
from charladder.text import open_corpus
from charladder.trainer_factory import build_trainer, fresh_modules, make_trainer
from charladder.training import distributed

COMPILER = shutil.which(shlex.split(os.environ.get("CC") or "cc")[0])
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or COMPILER is None, reason="no C compiler here: nothing to test"
)
BOTH = tuple(build.MATMUL_FLAGS)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The folder of compiled libraries of a process that has decided nothing; the smallest library stands for all."""
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "LIBRARIES", {build.LOSSES: build.LIBRARIES[build.LOSSES]})
    monkeypatch.setattr(build, "_decided", None)
    return tmp_path / "cache" / "native"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Makes a shell script CC, and returns what it was called with."""

    def use(script: str) -> Path:
        log, file = tmp_path / "calls", tmp_path / "compiler"
        file.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{script}\n')
        file.chmod(0o755)
        monkeypatch.setenv("CC", str(file))
        return log

    return use


def again(monkeypatch) -> None:
    """From here on as in another process."""
    monkeypatch.setattr(build, "_decided", None)


def used() -> list[bool]:
    return [native.library(products, build.LOSSES) is not None for products in BOTH]


def libraries(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.glob("*.so")}


def others(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.suffix != ".so" and file.name != ".lock"]


def test_libraries_are_compiled_once(folder, compiler, monkeypatch):
    calls = compiler(f'exec {COMPILER} "$@"')
    assert used() == [True, True]
    said = native.describe(build.LOSSES)
    assert said.startswith("C ")
    made = libraries(folder)
    assert len(made) == len(calls.read_text().splitlines()) == 2
    assert others(folder) == []
    again(monkeypatch)
    assert used() == [True, True]
    assert native.describe(build.LOSSES) == said
    assert len(calls.read_text().splitlines()) == 2, "an intact library needs no compiler"
    assert libraries(folder) == made


def test_a_library_is_on_the_disk_before_it_has_its_name(folder, monkeypatch):
    done: list[Path] = []
    flush, move = os.fsync, Path.replace

    def flushed(handle: int) -> None:
        done.append(Path(f"/proc/self/fd/{handle}").readlink())
        flush(handle)

    def moved(self: Path, target: Path) -> Path:
        done.append(target)
        return move(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", moved)
    assert used() == [True, True]
    assert [path.suffix for path in done] == [".so", ".so", ".so", ".so", ""]
    assert all(path.parent.name.startswith("build-") for path in done[:2])
    assert [path.parent for path in done[2:4]] == [folder, folder]
    assert done[4] == folder


def flipped(content: bytes) -> bytes:
    return content[:9000] + bytes([content[9000] ^ 1]) + content[9001:]


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:5000], lambda content: b""])
def test_a_damaged_library_is_not_loaded_and_is_compiled_again(folder, damage, monkeypatch):
    assert used() == [True, True]
    said, whole = native.describe(build.LOSSES), libraries(folder)
    torn = min(whole)
    torn.unlink()  # what this process has loaded stays as it is
    torn.write_bytes(damage(whole[torn]))
    load = ctypes.CDLL

    def intact(name):
        assert Path(name).read_bytes() in whole.values()
        return load(name)

    monkeypatch.setattr(ctypes, "CDLL", intact)
    again(monkeypatch)
    assert used() == [True, True]
    assert native.describe(build.LOSSES) == said
    assert libraries(folder) == whole


def test_one_failure_is_for_all_libraries_and_for_the_whole_process(folder, compiler):
    calls = compiler(f'case "$*" in *-DBFLOAT16*) echo "an error, once"; exit 1;; esac\nexec {COMPILER} "$@"')
    assert used() == [False, False]
    compiler(f'exec {COMPILER} "$@"')
    for _ in range(3):
        assert used() == [False, False]
        assert native.unavailable_reason() == "the compilation failed: an error, once"
        assert native.describe(build.LOSSES) == "torch (the compilation failed: an error, once)"
    assert len(calls.read_text().splitlines()) == 2
    assert not native.supports(torch.ones(1, 2), torch.float32, build.LOSSES)
    assert libraries(folder) == {}
    assert others(folder) == []


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_compiler_that_hangs_is_ended_with_all_its_processes(folder, compiler, tmp_path, monkeypatch):
    calls = compiler(f"sleep 1000 & echo $! >> {tmp_path}/children; wait")
    monkeypatch.setattr(build, "COMPILE_SECONDS", 1.0)
    for _ in range(3):
        assert used() == [False, False]
        assert native.unavailable_reason() == "the compiler has not ended after 1 s"
    assert len(calls.read_text().splitlines()) == 2
    children = [int(number) for number in (tmp_path / "children").read_text().split()]
    for _ in range(100):
        if not any(running(child) for child in children):
            break
        time.sleep(0.05)
    assert not [child for child in children if running(child)]
    assert others(folder) == []


def test_a_process_that_has_compiled_too_long_is_not_waited_for(folder, monkeypatch):
    monkeypatch.setattr(build, "COMPILE_SECONDS", 0.2)
    folder.mkdir(parents=True, mode=0o700)
    with FileLock(folder / ".lock"):
        assert native.unavailable_reason() == "another process has been compiling for more than 0.2 s"


OUTPUT = """$(echo "$*" | sed 's/.* -o //; s/ .*//')"""


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f'echo "half a file" > "{OUTPUT}"; exit 1', "the compilation failed: exit code 1"),
        (f': > "{OUTPUT}"', "the compiled library cannot be loaded"),
        ("exit 0", "the compilation failed"),
        (
            f'echo | {COMPILER} -shared -x c - -o "{OUTPUT}"',
            "the compiled library does not have the function layer_norm_forward",
        ),
    ],
)
def test_what_a_strange_compiler_makes_is_not_kept(folder, compiler, script, reason):
    compiler(script)
    assert used() == [False, False]
    assert (native.unavailable_reason() or "").startswith(reason)
    assert libraries(folder) == {}
    assert others(folder) == []


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("CC", "no-such-compiler", "there is no C compiler"),
        ("CC", "  ", "there is no C compiler"),
        ("CC", "gcc '", 'CC is "gcc \'", which is not a command line (No closing quotation)'),
        ("CHARLADDER_NATIVE", "0", "CHARLADDER_NATIVE is 0"),
        ("CHARLADDER_CACHE", "/dev/null", "the compilation failed: [Errno 20] Not a directory"),
    ],
)
def test_without_a_compiler_without_leave_and_without_a_place_there_is_none(name, value, reason, monkeypatch):
    monkeypatch.setenv(name, value)
    assert used() == [False, False]
    assert (native.unavailable_reason() or "").startswith(reason)


def test_a_user_without_a_home_folder_has_none(monkeypatch):
    def unknown(user):
        raise KeyError(user)

    for name in ("HOME", "CHARLADDER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert used() == [False, False]
    assert native.unavailable_reason() == "this user has no home folder; set CHARLADDER_CACHE"
    assert not Path("~").exists()


def test_what_killed_compilations_have_left_is_removed(folder, monkeypatch):
    def leave() -> None:
        for name in ("build-killed", "tmpkilled"):
            (folder / name).mkdir(parents=True)
            (folder / name / "cc.o").write_text("half an object")

    folder.mkdir(parents=True, mode=0o700)
    leave()
    assert used() == [True, True]
    assert others(folder) == []
    leave()
    again(monkeypatch)
    with FileLock(folder / ".lock"):  # another process compiles, and what is there may be its own
        assert used() == [True, True]
        assert sorted(others(folder)) == ["build-killed", "tmpkilled"]
    again(monkeypatch)
    assert used() == [True, True]
    assert others(folder) == []


def test_ranks_use_no_c_where_one_of_them_cannot(text_file, monkeypatch):
    corpus = open_corpus(str(text_file))
    tiny = {"training.steps": 1, "model.layers": 1, "model.width": 16, "model.context": 16}
    run = plan_run(Path("run"), resolve(tiny), corpus)
    make_trainer(run, corpus)
    assert used() == [True, True]
    others = [True]  # what another rank says at the first question, which is about C
    monkeypatch.setattr(
        distributed, "broadcast_and_any", lambda own, stop=False: (own, others.pop() if others else stop)
    )
    build_trainer(run, corpus, *fresh_modules(run))
    assert used() == [False, False]
    assert native.describe(build.LOSSES) == "torch (another process of this job cannot use C)"
