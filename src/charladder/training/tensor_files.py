"""Safetensors files with a SHA-256 of their content in the metadata."""

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
_MAX_HEADER_BYTES = 100 << 20  # the limit of safetensors
_DIGEST_KEY = "sha256"  # key of the digest in the metadata


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file. Its metadata has the entries of `metadata` and a SHA-256 of tensors and metadata.

    Raises OSError if the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {**(metadata or {}), _DIGEST_KEY: tensors_digest(tensors, metadata or {})}
    with atomic_write(path) as part:
        try:
            save_file(tensors, part, metadata)
            _sort_metadata(part)
        except SafetensorError as error:
            match = re.search(r"os error (\d+)", str(error))
            code = int(match[1]) if match else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from None


def _sort_metadata(path: Path) -> None:
    """Sorts the metadata of a safetensors file by key. safetensors writes it in random order, but equal tensors must
    give equal files, because drafting heads store the SHA-256 of the file of their network."""
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        if len(text) == length:
            file.seek(8)
            file.write(text)


def load_tensors(path: Path, identity: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file of the run `identity`.

    Compares their SHA-256 with that in the metadata. A file without one is accepted, because older versions and other
    programs write none. Raises UserError if the file is damaged, of another run, or has numbers that are not finite,
    and OSError or SafetensorError if it cannot be read.
    """
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata() or {}
        check_identity(path, metadata.get(RUN_KEY), path.parent, identity)
        dtypes = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    invalid = next((name for name, dtype in dtypes.items() if dtype not in _DTYPES), None)
    if invalid is not None:
        raise UserError(f"{path} has {invalid} with the dtype {dtypes[invalid]}, which runs do not use")
    tensors = load_file(path)
    digest = metadata.pop(_DIGEST_KEY, None)
    if digest is not None and digest != tensors_digest(tensors, metadata):
        raise UserError(
            f"{path} is damaged: its content does not have the SHA-256 of its metadata; restore a good copy, or, if "
            f"it was changed on purpose, save it without {_DIGEST_KEY!r} in its metadata"
        )
    non_finite = next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)
    if non_finite is not None:
        raise UserError(f"{path} has numbers that are not finite, in {non_finite}")
    return tensors


def tensors_digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """The SHA-256 of the metadata and of all names, dtypes, shapes and bytes of contiguous tensors on a CPU."""
    descriptions = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in sorted(tensors.items())]
    digest = hashlib.sha256(json.dumps([sorted(metadata.items()), descriptions]).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_length(path: Path) -> None:
    """Raises ValueError if a safetensors file is longer than its header says. A sparse file may have any length, so
    this is checked before the file is read. The SHA-256 of the file detects other errors in the header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise ValueError("its header is longer than safetensors allows")
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            file_bytes = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return
    if path.stat().st_size > file_bytes:
        raise ValueError("it is longer than its header says")


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
