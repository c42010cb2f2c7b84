"""Building of the C libraries: compiled at first use into the cache folder, verified, and loaded together.

A process decides once whether it uses C. It uses either all libraries, for every matmul dtype, or none of them, so
that one failure of the compiler cannot mix C with torch within a run. A file is named by what it was made from and by
the SHA-256 of its content, which is compared before the file is loaded.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
import torch

from charladder.atomic_io import fsync_folder, remove_stale_parts

CSRC = Path(__file__).parent / "csrc"
Sources = tuple[Path, ...]
NETWORK: Sources = (CSRC / "training/layers.c", CSRC / "training/attention.c", CSRC / "inference/decode.c")
LOSSES: Sources = (CSRC / "training/cross_entropy.c",)
SAMPLING: Sources = (CSRC / "inference/sampling.c", CSRC / "inference/draft_chain.c")
LIBRARIES: dict[Sources, tuple[str, ...]] = {
    NETWORK: (
        *("rms_norm_forward", "rms_norm_backward", "split_heads_forward", "split_heads_backward"),
        *("causal_softmax_forward", "causal_softmax_backward", "swiglu_forward", "swiglu_backward"),
        *("has_attention", "decode", "decode_steps", "rounds_inputs"),
    ),
    LOSSES: ("layer_norm_forward", "layer_norm_backward", "cross_entropy_gradient"),
    SAMPLING: ("distribution", "inverse_cdf_sample", "sample_one", "sample", "verify_drafts", "draft_chain"),
}
"""The sources of each library, and the functions that it must export."""
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
MATMUL_FLAGS = {torch.float32: (), torch.bfloat16: ("-DBFLOAT16",)}
LEFT_BEHIND = "build-*", "tmp*"  # folders of compilations; version 0.1.0 called them tmp*
COMPILE_SECONDS = 120.0  # for all of the compilation, including the wait for another process that compiles the same

LibraryKey = tuple[torch.dtype, Sources]
"""A library: its matmul dtype, and its sources."""


class NativeUnavailable(Exception):
    """Why this process does not use C, in a few words."""


@dataclass(frozen=True)
class Loaded:
    """A library, and the SHA-256 of its file."""

    library: ctypes.CDLL
    digest: str


@dataclass(frozen=True)
class Decision:
    """The loaded libraries and the digests of their files; or why there are none."""

    libraries: dict[LibraryKey, ctypes.CDLL] = field(default_factory=dict)
    digests: dict[LibraryKey, str] = field(default_factory=dict)
    reason: str | None = None


_decided: Decision | None = None
_deciding = threading.Lock()


def decision() -> Decision:
    """Whether this process uses C. The first call compiles and loads the libraries; later calls return its result."""
    global _decided
    if _decided is None:
        with _deciding:
            if _decided is None:
                _decided = _decide()
    return _decided


def disable(reason: str) -> None:
    """From here on, this process uses no C."""
    global _decided
    _decided = Decision(reason=reason)


def _decide() -> Decision:
    try:
        return _load_all()
    except NativeUnavailable as reason:
        return Decision(reason=str(reason))
    except (OSError, NotImplementedError, subprocess.SubprocessError) as error:  # NotImplementedError: no file locks
        return Decision(reason=f"the compilation failed: {error}")


def _load_all() -> Decision:
    """Loads all libraries, and compiles those that are missing or damaged in the cache folder.

    Raises NativeUnavailable and OSError.
    """
    if os.environ.get("CHARLADDER_NATIVE") == "0":
        raise NativeUnavailable("CHARLADDER_NATIVE is 0")
    if sys.platform != "linux":
        raise NativeUnavailable("C is used on Linux only")
    compiler = _compiler()
    folder = _folder()
    keys = _keys(compiler)
    loaded = _find_all(folder, keys)
    if len(loaded) < len(keys):
        deadline = time.monotonic() + COMPILE_SECONDS
        with _locked(folder, COMPILE_SECONDS):
            loaded = _find_all(folder, keys)  # another process may have compiled them meanwhile
            wanted = {which: key for which, key in keys.items() if which not in loaded}
            loaded |= _compile(compiler, folder, wanted, deadline) if wanted else {}
    elif _left_behind(folder):
        with contextlib.suppress(NativeUnavailable, OSError, NotImplementedError), _locked(folder, 0.0):
            pass
    return Decision({which: loaded[which].library for which in keys}, {which: loaded[which].digest for which in keys})


def _compiler() -> list[str]:
    """The command of the C compiler: CC, or cc."""
    command = os.environ.get("CC") or "cc"
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise NativeUnavailable(f"CC is {command!r}, which is not a command line ({error})") from None
    if not words or shutil.which(words[0]) is None:
        raise NativeUnavailable("there is no C compiler")
    return words


def _folder() -> Path:
    """The folder of compiled libraries in the cache. It must belong to this user alone, because its files run."""
    try:
        chosen = os.environ.get("CHARLADDER_CACHE") or platformdirs.user_cache_dir("charladder")
    except RuntimeError:
        raise NativeUnavailable("this user has no home folder; set CHARLADDER_CACHE") from None
    folder = Path(chosen).absolute() / "native"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise NativeUnavailable(f"other users may write to {folder}")
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        raise NativeUnavailable(f"{folder} is on a file system from which nothing can be executed (noexec)")
    return folder


def _keys(compiler: list[str]) -> dict[LibraryKey, str]:
    """What each library is made from, as a hash: sources, headers, compiler, flags and processor.

    The compiler is identified by its file and not by running it, which costs time and may hang.
    """
    program = Path(shutil.which(compiler[0]) or compiler[0]).resolve()
    status = program.stat()
    made_by = repr((compiler, str(program), status.st_size, status.st_mtime_ns, platform.machine(), _processor()))
    keys = {}
    headers = sorted(CSRC.rglob("*.h"))
    for sources in LIBRARIES:
        texts = [file.read_bytes() for file in (*sources, *headers)]
        for dtype, flags in MATMUL_FLAGS.items():
            parts = (*texts, made_by.encode(), repr((*FLAGS, *flags)).encode())
            keys[dtype, sources] = hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
    return keys


def _processor() -> str:
    """What this processor is and which instructions it has, because the code is made for it."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("flags", "Features", "model", "cpu family", "CPU")))


def _find_all(folder: Path, keys: dict[LibraryKey, str]) -> dict[LibraryKey, Loaded]:
    """The libraries in the folder whose content has the digest that their name says."""
    found = {}
    for which, key in keys.items():
        for file in sorted(folder.glob(f"{key}-*.so")):
            with contextlib.suppress(OSError, NativeUnavailable):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                if file.stem == f"{key}-{digest}":
                    found[which] = _load(file, which, digest)
    return found


def _load(file: Path, which: LibraryKey, digest: str) -> Loaded:
    """Raises NativeUnavailable where the file is not a library with the functions that it must export."""
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        raise NativeUnavailable(f"the compiled library cannot be loaded: {error}") from None
    for name in LIBRARIES[which[1]]:
        if not hasattr(library, name):
            raise NativeUnavailable(f"the compiled library does not have the function {name}")
    return Loaded(library, digest)


def _left_behind(folder: Path) -> list[Path]:
    """Folders of compilations that are running or were killed."""
    return [left for pattern in LEFT_BEHIND for left in folder.glob(pattern)]


@contextlib.contextmanager
def _locked(folder: Path, seconds: float) -> Iterator[None]:
    """Waits until no other process compiles, and removes the folders of killed compilations.

    Raises NativeUnavailable after `seconds`.
    """
    from filelock import FileLock, Timeout  # slow to import, and needed here only

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise NativeUnavailable(f"another process has been compiling for more than {seconds:g} s") from None
    try:
        remove_stale_parts(folder, *LEFT_BEHIND)
        yield
    finally:
        lock.release()


def _compile(
    compiler: list[str], folder: Path, wanted: dict[LibraryKey, str], deadline: float
) -> dict[LibraryKey, Loaded]:
    """Compiles all at the same time. They are moved into the folder when every one of them has been loaded."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as name:
        files = {which: Path(name) / f"{key}.so" for which, key in wanted.items()}
        commands = [
            [*compiler, *FLAGS, *MATMUL_FLAGS[dtype], "-I", str(CSRC), *map(str, sources), "-o", str(file), "-lm"]
            for (dtype, sources), file in files.items()
        ]
        _run_all(commands, Path(name), deadline)
        loaded = {which: _load(file, which, _flushed(file)) for which, file in files.items()}
        for which, key in wanted.items():
            for damaged in folder.glob(f"{key}-*.so"):
                damaged.unlink()
            files[which].replace(folder / f"{key}-{loaded[which].digest}.so")
        fsync_folder(folder)
    return loaded


def _flushed(file: Path) -> str:
    """The SHA-256 of a file, which is on the disk when this returns."""
    with file.open("rb+") as content:
        os.fsync(content.fileno())
        return hashlib.file_digest(content, "sha256").hexdigest()


def _run_all(commands: list[list[str]], folder: Path, deadline: float) -> None:
    """Runs commands at the same time, with temporary files in `folder`.

    Raises NativeUnavailable if one of them fails or takes too long, after it has ended all of them.
    """
    running: list[tuple[subprocess.Popen[bytes], Path]] = []
    try:
        for number, command in enumerate(commands):
            log = folder / f"{number}.log"
            with log.open("wb") as output:
                started = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0,
                    env={**os.environ, "TMPDIR": str(folder)},
                )  # fmt: skip
            running.append((started, log))
        for process, log in running:
            try:
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise NativeUnavailable(f"the compiler has not ended after {COMPILE_SECONDS:g} s") from None
            if code:
                lines = log.read_text(errors="replace").splitlines()
                said = next((line.strip() for line in lines if "error" in line), f"exit code {code}")
                raise NativeUnavailable(f"the compilation failed: {said}")
    finally:
        for process, _ in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the group: a compiler starts processes of its own
                process.wait()
