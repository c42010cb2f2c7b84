"""Files of tensors, with a SHA-256 of their content."""

import errno
import hashlib
import json
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from charladder.atomic_io import atomic_write
from charladder.errors import UserError
from charladder.training.identity import RUN_KEY, check_identity

_DTYPES = "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"
_MAX_HEADER_BYTES = 100 << 20  # bytes, the limit of safetensors itself
_DIGEST_KEY = "sha256"  # the entry of a file's metadata


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, with the entries of `about` and a SHA-256 of everything in its metadata.

    Raises OSError where it cannot.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {**(metadata or {}), _DIGEST_KEY: tensors_digest(tensors, metadata or {})}
    with atomic_write(path) as part:
        try:
            save_file(tensors, part, metadata)
            _sort_metadata(part)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from None


def _sort_metadata(path: Path) -> None:
    """Puts the metadata of a safetensors file into the order of its names: safetensors writes them in a random one,
    and the same tensors must be the same bytes, by whose SHA-256 drafting heads know their network."""
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        if len(text) == length:
            file.seek(8)
            file.write(text)


def load_tensors(path: Path, identity: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file of the run `identity`, all of whose numbers are finite.

    Their SHA-256 is compared with that of the metadata. A file without one is accepted: older versions and other
    programs write none. Raises UserError where the file is damaged or of another run, and OSError and SafetensorError
    where it cannot be read.
    """
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata() or {}
        check_identity(path, metadata.get(RUN_KEY), path.parent, identity)
        dtypes = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    other = next((name for name, dtype in dtypes.items() if dtype not in _DTYPES), None)
    if other is not None:
        raise UserError(f"{path} holds {other} as {dtypes[other]}, a dtype that no run writes")
    tensors = load_file(path)
    digest = metadata.pop(_DIGEST_KEY, None)
    if digest is not None and digest != tensors_digest(tensors, metadata):
        raise UserError(
            f"{path} is damaged: its content does not have the SHA-256 of its metadata; put a good copy back, or, if "
            f"it was changed on purpose, save it without {_DIGEST_KEY!r} in its metadata"
        )
    bad = next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)
    if bad is not None:
        raise UserError(f"{path} holds numbers that are not finite, in {bad}")
    return tensors


def tensors_digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """The SHA-256 of the metadata and of all names, dtypes, shapes and bytes of contiguous tensors on a CPU."""
    described = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in sorted(tensors.items())]
    mark = hashlib.sha256(json.dumps([sorted(metadata.items()), described]).encode())
    for _, tensor in sorted(tensors.items()):
        mark.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return mark.hexdigest()


def check_length(path: Path) -> None:
    """Raises ValueError where a safetensors file is longer than its header says, before all of it is read: a sparse
    file may have any length. What else is wrong with a header is left to the digest."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise ValueError("its header is longer than any that a run writes")
        try:
            found = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in found.items() if name != "__metadata__"]
            whole = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return
    if path.stat().st_size > whole:
        raise ValueError("it is longer than its header says")


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
