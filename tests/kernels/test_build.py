"""Building the C libraries: compiled once, written atomically, verified before they are loaded."""

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
from charladder.trainer_factory import build_trainer, make_trainer, new_modules
from charladder.training import distributed

COMPILER = shutil.which(shlex.split(os.environ.get("CC") or "cc")[0])
pytestmark = pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="needs a C compiler")
DTYPES = tuple(build.MATMUL_FLAGS)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The folder of compiled libraries of a process that has not built any. Only the smallest library is built."""
    monkeypatch.setenv("CHARLADDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "LIBRARIES", {build.LOSSES: build.LIBRARIES[build.LOSSES]})
    monkeypatch.setattr(build, "_decision", None)
    return tmp_path / "cache" / "native"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Sets CC to a shell script; returns the path of a log of its arguments."""

    def set_script(script: str) -> Path:
        log, file = tmp_path / "calls", tmp_path / "compiler"
        file.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{script}\n')
        file.chmod(0o755)
        monkeypatch.setenv("CC", str(file))
        return log

    return set_script


def forget_decision(monkeypatch) -> None:
    """Resets the decision whether to use C, as in a new process."""
    monkeypatch.setattr(build, "_decision", None)


def loaded() -> list[bool]:
    return [native.library(dtype, build.LOSSES) is not None for dtype in DTYPES]


def libraries(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.glob("*.so")}


def temporary_files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.suffix != ".so" and file.name != ".lock"]


def test_libraries_are_compiled_once(folder, compiler, monkeypatch):
    calls = compiler(f'exec {COMPILER} "$@"')
    assert loaded() == [True, True]
    description = native.describe(build.LOSSES)
    assert description.startswith("C ")
    made = libraries(folder)
    assert len(made) == len(calls.read_text().splitlines()) == 2
    assert temporary_files(folder) == []
    forget_decision(monkeypatch)
    assert loaded() == [True, True]
    assert native.describe(build.LOSSES) == description
    assert len(calls.read_text().splitlines()) == 2, "an intact library needs no compiler"
    assert libraries(folder) == made


def test_library_is_flushed_before_it_is_renamed(folder, monkeypatch):
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
    assert loaded() == [True, True]
    assert [path.suffix for path in done] == [".so", ".so", ".so", ".so", ""]
    assert all(path.parent.name.startswith("build-") for path in done[:2])
    assert [path.parent for path in done[2:4]] == [folder, folder]
    assert done[4] == folder


def flip_bit(content: bytes) -> bytes:
    return content[:9000] + bytes([content[9000] ^ 1]) + content[9001:]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [flip_bit, lambda content: content[:5000], lambda content: b""])
def test_damaged_library_is_recompiled(folder, damage, monkeypatch):
    assert loaded() == [True, True]
    description, intact = native.describe(build.LOSSES), libraries(folder)
    damaged = min(intact)
    damaged.unlink()  # the file that this process has loaded must not change
    damaged.write_bytes(damage(intact[damaged]))
    load = ctypes.CDLL

    def load_intact(name):
        assert Path(name).read_bytes() in intact.values()
        return load(name)

    monkeypatch.setattr(ctypes, "CDLL", load_intact)
    forget_decision(monkeypatch)
    assert loaded() == [True, True]
    assert native.describe(build.LOSSES) == description
    assert libraries(folder) == intact


def test_one_failure_disables_c_for_the_whole_process(folder, compiler):
    calls = compiler(f'case "$*" in *-DBFLOAT16*) echo "an error, once"; exit 1;; esac\nexec {COMPILER} "$@"')
    assert loaded() == [False, False]
    compiler(f'exec {COMPILER} "$@"')
    for _ in range(3):
        assert loaded() == [False, False]
        assert native.unavailable_reason() == "the compilation failed: an error, once"
        assert native.describe(build.LOSSES) == "torch (the compilation failed: an error, once)"
    assert len(calls.read_text().splitlines()) == 2
    assert not native.supports(torch.ones(1, 2), torch.float32, build.LOSSES)
    assert libraries(folder) == {}
    assert temporary_files(folder) == []


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_hanging_compiler_is_killed_with_its_children(folder, compiler, tmp_path, monkeypatch):
    calls = compiler(f"sleep 1000 & echo $! >> {tmp_path}/children; wait")
    monkeypatch.setattr(build, "COMPILE_SECONDS", 1.0)
    for _ in range(3):
        assert loaded() == [False, False]
        assert native.unavailable_reason() == "the compiler has not ended after 1 s"
    assert len(calls.read_text().splitlines()) == 2
    children = [int(number) for number in (tmp_path / "children").read_text().split()]
    for _ in range(100):
        if not any(is_running(child) for child in children):
            break
        time.sleep(0.05)
    assert not [child for child in children if is_running(child)]
    assert temporary_files(folder) == []


def test_lock_of_another_process_times_out(folder, monkeypatch):
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
def test_unusable_compiler_output_is_deleted(folder, compiler, script, reason):
    compiler(script)
    assert loaded() == [False, False]
    assert (native.unavailable_reason() or "").startswith(reason)
    assert libraries(folder) == {}
    assert temporary_files(folder) == []


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
def test_reasons_why_c_is_unavailable(name, value, reason, monkeypatch):
    monkeypatch.setenv(name, value)
    assert loaded() == [False, False]
    assert (native.unavailable_reason() or "").startswith(reason)


def test_no_home_folder(monkeypatch):
    def unknown(user):
        raise KeyError(user)

    for name in ("HOME", "CHARLADDER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert loaded() == [False, False]
    assert native.unavailable_reason() == "this user has no home folder; set CHARLADDER_CACHE"
    assert not Path("~").exists()


def test_leftovers_of_killed_builds_are_removed(folder, monkeypatch):
    def create_leftovers() -> None:
        for name in ("build-killed", "tmpkilled"):
            (folder / name).mkdir(parents=True)
            (folder / name / "cc.o").write_text("half an object")

    folder.mkdir(parents=True, mode=0o700)
    create_leftovers()
    assert loaded() == [True, True]
    assert temporary_files(folder) == []
    create_leftovers()
    forget_decision(monkeypatch)
    with FileLock(folder / ".lock"):  # another process compiles: the files may belong to it
        assert loaded() == [True, True]
        assert sorted(temporary_files(folder)) == ["build-killed", "tmpkilled"]
    forget_decision(monkeypatch)
    assert loaded() == [True, True]
    assert temporary_files(folder) == []


def test_all_ranks_use_torch_if_one_lacks_c(text_file, monkeypatch):
    corpus = open_corpus(str(text_file))
    tiny = {"training.steps": 1, "model.layers": 1, "model.width": 16, "model.context": 16}
    run = plan_run(Path("run"), resolve(tiny), corpus)
    make_trainer(run, corpus)
    assert loaded() == [True, True]
    answers = [True]  # another rank's first answer is about C
    monkeypatch.setattr(
        distributed, "broadcast_and_any", lambda own, stop=False: (own, answers.pop() if answers else stop)
    )
    build_trainer(run, corpus, *new_modules(run))
    assert loaded() == [False, False]
    assert native.describe(build.LOSSES) == "torch (another process of this job cannot use C)"
