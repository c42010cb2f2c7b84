"""Files of a run: written beside their place, flushed to the disk and renamed, so that they are whole or not there."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Where to write what is to become `path`. It is renamed at the end, and gone if anything fails."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # what lies there is left over, or a link to something that is not ours
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Flushes what a folder holds, names and all, so that a rename outlives a loss of power. Where it can be done."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems have no such thing
        pass
    finally:
        os.close(handle)


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, with words `about` it in its header. Raises OSError where it cannot."""
    with beside(path) as part:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part, about)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Writes a small text file in UTF-8."""
    with beside(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
