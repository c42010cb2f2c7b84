"""Cache folders of their own for tests, with the C libraries in them, which are compiled once for all tests."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

COMPILED = "TEST_COMPILED_LIBRARIES"  # environment variable: the cache folder in which they are compiled


@functools.cache
def compiled() -> Path:
    """The folder of the compiled libraries; it is empty where they cannot be compiled."""
    folder = Path(os.environ[COMPILED])
    program = "from charladder.kernels import build; build.decision()"
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"CHARLADDER_CACHE": str(folder)}, check=True)
    return folder / "native"


def new_cache(folder: Path) -> str:
    """Makes `folder`, for CHARLADDER_CACHE: without texts, with the compiled libraries. Returns its path."""
    native = folder / "native"
    native.mkdir(parents=True, exist_ok=True, mode=0o700)
    for library in compiled().glob("*.so"):
        if not (native / library.name).exists():
            shutil.copy(library, native)
    return str(folder)
