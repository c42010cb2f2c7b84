"""Building of the C libraries: compiled at first use into the cache folder, verified, and loaded together.

A process decides once whether it uses C. It uses either all libraries, for every matmul dtype, or none of them, so
that one failure of the compiler cannot mix C with torch within a run. The name of a file contains a hash of what it was
built from and the SHA-256 of its content, which is compared before the file is loaded.
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
STALE_FOLDERS = "build-*", "tmp*"  # patterns of temporary folders; tmp* is from version 0.1.0
COMPILE_SECONDS = 120.0  # for all of the compilation, including the wait for another process that compiles the same

LibraryKey = tuple[torch.dtype, Sources]
"""A library: its matmul dtype, and its sources."""


class NativeUnavailable(Exception):
    """Why this process does not use C, in a few words."""


@dataclass(frozen=True)
class LoadedLibrary:
    """A library, and the SHA-256 of its file."""

    library: ctypes.CDLL
    digest: str


@dataclass(frozen=True)
class Decision:
    """The loaded libraries and the digests of their files; or why there are none."""

    libraries: dict[LibraryKey, ctypes.CDLL] = field(default_factory=dict)
    digests: dict[LibraryKey, str] = field(default_factory=dict)
    reason: str | None = None


_decision: Decision | None = None
_decision_lock = threading.Lock()


def decision() -> Decision:
    """Whether this process uses C. The first call compiles and loads the libraries; later calls return its result."""
    global _decision
    if _decision is None:
        with _decision_lock:
            if _decision is None:
                _decision = _decide()
    return _decision


def disable(reason: str) -> None:
    """Makes this process use torch instead of C from now on."""
    global _decision
    _decision = Decision(reason=reason)


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
    folder = _cache_folder()
    hashes = _build_hashes(compiler)
    loaded = _load_cached(folder, hashes)
    if len(loaded) < len(hashes):
        deadline = time.monotonic() + COMPILE_SECONDS
        with _compile_lock(folder, COMPILE_SECONDS):
            loaded = _load_cached(folder, hashes)  # another process may have compiled them in the meantime
            missing = {key: build_hash for key, build_hash in hashes.items() if key not in loaded}
            loaded |= _compile(compiler, folder, missing, deadline) if missing else {}
    elif _stale_folders(folder):
        with contextlib.suppress(NativeUnavailable, OSError, NotImplementedError), _compile_lock(folder, 0.0):
            pass  # _compile_lock removes stale folders when it is entered
    return Decision({key: loaded[key].library for key in hashes}, {key: loaded[key].digest for key in hashes})


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


def _cache_folder() -> Path:
    """The folder of compiled libraries. No other user may write to it, because its files are executed."""
    try:
        cache = os.environ.get("CHARLADDER_CACHE") or platformdirs.user_cache_dir("charladder")
    except RuntimeError:
        raise NativeUnavailable("this user has no home folder; set CHARLADDER_CACHE") from None
    folder = Path(cache).absolute() / "native"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise NativeUnavailable(f"other users may write to {folder}")
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        raise NativeUnavailable(f"{folder} is on a file system from which nothing can be executed (noexec)")
    return folder


def _build_hashes(compiler: list[str]) -> dict[LibraryKey, str]:
    """For each library a hash of what it is built from: sources, headers, compiler, flags and processor.

    The compiler is identified by its file, because running it takes time and may hang.
    """
    program = Path(shutil.which(compiler[0]) or compiler[0]).resolve()
    status = program.stat()
    toolchain = repr((compiler, str(program), status.st_size, status.st_mtime_ns, platform.machine(), _processor()))
    hashes = {}
    headers = sorted(CSRC.rglob("*.h"))
    for sources in LIBRARIES:
        texts = [file.read_bytes() for file in (*sources, *headers)]
        for dtype, flags in MATMUL_FLAGS.items():
            parts = (*texts, toolchain.encode(), repr((*FLAGS, *flags)).encode())
            hashes[dtype, sources] = hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]
    return hashes


def _processor() -> str:
    """The model and the instruction sets of this processor, because -march=native compiles for it."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("flags", "Features", "model", "cpu family", "CPU")))


def _load_cached(folder: Path, hashes: dict[LibraryKey, str]) -> dict[LibraryKey, LoadedLibrary]:
    """Loads the libraries in the folder whose content has the digest that is in their name."""
    loaded = {}
    for key, build_hash in hashes.items():
        for file in sorted(folder.glob(f"{build_hash}-*.so")):
            with contextlib.suppress(OSError, NativeUnavailable):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                if file.stem == f"{build_hash}-{digest}":
                    loaded[key] = _load(file, key, digest)
    return loaded


def _load(file: Path, key: LibraryKey, digest: str) -> LoadedLibrary:
    """Raises NativeUnavailable if the file is not a library that exports the functions of LIBRARIES."""
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        raise NativeUnavailable(f"the compiled library cannot be loaded: {error}") from None
    for name in LIBRARIES[key[1]]:
        if not hasattr(library, name):
            raise NativeUnavailable(f"the compiled library does not have the function {name}")
    return LoadedLibrary(library, digest)


def _stale_folders(folder: Path) -> list[Path]:
    """Temporary folders of compilations that are running or were killed."""
    return [path for pattern in STALE_FOLDERS for path in folder.glob(pattern)]


@contextlib.contextmanager
def _compile_lock(folder: Path, seconds: float) -> Iterator[None]:
    """Waits until no other process compiles, and removes temporary folders of killed compilations.

    Raises NativeUnavailable after `seconds`.
    """
    from filelock import FileLock, Timeout  # slow to import, and needed here only

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise NativeUnavailable(f"another process has been compiling for more than {seconds:g} s") from None
    try:
        remove_stale_parts(folder, *STALE_FOLDERS)
        yield
    finally:
        lock.release()


def _compile(
    compiler: list[str], folder: Path, missing: dict[LibraryKey, str], deadline: float
) -> dict[LibraryKey, LoadedLibrary]:
    """Compiles the missing libraries in parallel. They are moved into the folder after all of them have been loaded."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as name:
        files = {key: Path(name) / f"{build_hash}.so" for key, build_hash in missing.items()}
        commands = [
            [*compiler, *FLAGS, *MATMUL_FLAGS[dtype], "-I", str(CSRC), *map(str, sources), "-o", str(file), "-lm"]
            for (dtype, sources), file in files.items()
        ]
        _run_commands(commands, Path(name), deadline)
        loaded = {key: _load(file, key, _flush_and_hash(file)) for key, file in files.items()}
        for key, build_hash in missing.items():
            for damaged in folder.glob(f"{build_hash}-*.so"):
                damaged.unlink()
            files[key].replace(folder / f"{build_hash}-{loaded[key].digest}.so")
        fsync_folder(folder)
    return loaded


def _flush_and_hash(file: Path) -> str:
    """Flushes a file to the disk and returns its SHA-256."""
    with file.open("rb+") as content:
        os.fsync(content.fileno())
        return hashlib.file_digest(content, "sha256").hexdigest()


def _run_commands(commands: list[list[str]], folder: Path, deadline: float) -> None:
    """Runs commands in parallel, with temporary files in `folder`.

    Raises NativeUnavailable if one of them fails or has not ended at the deadline, after it has killed the others.
    """
    processes: list[tuple[subprocess.Popen[bytes], Path]] = []
    try:
        for number, command in enumerate(commands):
            log = folder / f"{number}.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0,
                    env={**os.environ, "TMPDIR": str(folder)},
                )  # fmt: skip
            processes.append((process, log))
        for process, log in processes:
            try:
                exit_code = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise NativeUnavailable(f"the compiler has not ended after {COMPILE_SECONDS:g} s") from None
            if exit_code:
                lines = log.read_text(errors="replace").splitlines()
                message = next((line.strip() for line in lines if "error" in line), f"exit code {exit_code}")
                raise NativeUnavailable(f"the compilation failed: {message}")
    finally:
        for process, _ in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the whole group, because a compiler starts child processes
                process.wait()
