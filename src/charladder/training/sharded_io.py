"""Tensors that lie in pieces on several ranks, on disk: through torch.distributed.checkpoint and its safetensors files.

Its default format is not used: that one's metadata is a pickle, which would run whatever it holds. These files are read
by one process, in whole tensors, however many wrote them.
"""

import itertools
import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from charladder.training.distributed import barrier

_SHARDING_KEY = "DCP_SHARDING_INFO"  # metadata entry of its files: which shard of each tensor they hold
_OFFSETS_KEY = "saved_offsets"


def save(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Every rank writes its pieces to `folder`, all at the same time. Raises OSError where one cannot."""
    # Imported here and below, for it takes a while and most runs have one process.
    from torch.distributed.checkpoint import state_dict_saver
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    barrier()
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        state_dict_saver.save({name: tensor.detach() for name, tensor in tensors.items()}, storage_writer=writer)
    except CheckpointException as error:
        causes = [one for one, *_ in error.failures.values()]
        raise next((one for one in causes if isinstance(one, OSError)), OSError(str(causes[0]))) from None


def load(folder: Path) -> dict[str, Tensor]:
    """All tensors in `folder`, whole. Raises ValueError where their pieces do not make wholes, before any is made."""
    from torch.distributed.checkpoint import state_dict_loader
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        shapes = check_shards(folder)
        reader = HuggingFaceStorageReader(str(folder))
        tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
        state: dict[str, Any] = dict(tensors)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is what no_dist asks for
            state_dict_loader.load(state, storage_reader=reader, no_dist=True)
    except (RecursionError, RuntimeError, AssertionError, AttributeError, CheckpointException) as error:
        raise ValueError(f"its pieces cannot be read: {str(error).splitlines()[0]}") from None
    return tensors


def check_shards(folder: Path) -> dict[str, tuple[list[int], torch.dtype]]:
    """The shape and type of every tensor, by the heads of the files. Raises ValueError where pieces leave gaps or lie
    on one another."""
    types: dict[str, torch.dtype] = {}
    pieces: dict[str, list[tuple[list[int], list[int]]]] = {}  # where each begins, and ends
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            info = json.loads((opened.metadata() or {}).get(_SHARDING_KEY, "{}"))
            for name in opened.keys():  # noqa: SIM118
                piece = opened.get_slice(name)
                shape, offsets = piece.get_shape(), info[name][_OFFSETS_KEY]
                if len(offsets) != len(shape) or not all(type(o) is int and 0 <= o < 1 << 53 for o in offsets):
                    raise ValueError(f"{file.name} does not say where its piece of {name} belongs")
                ends = [offset + length for offset, length in zip(offsets, shape, strict=True)]
                pieces.setdefault(name, []).append((offsets, ends))
                dtype = _dtype_by_name(piece.get_dtype())
                if types.setdefault(name, dtype) != dtype:
                    raise ValueError(f"the pieces of {name} have several types")
    shapes = {}
    for name, several in pieces.items():
        shape = [max(ends) for ends in zip(*(ends for _, ends in several), strict=True)]
        there = sum(math.prod(e - b for b, e in zip(*piece, strict=True)) for piece in several)
        if there != math.prod(shape) or any(_overlap(*pair) for pair in itertools.combinations(several, 2)):
            raise ValueError(f"the pieces of {name} do not make a whole")
        shapes[name] = shape
    return {name: (shape, types[name]) for name, shape in shapes.items()}


def _overlap(one: tuple[list[int], list[int]], other: tuple[list[int], list[int]]) -> bool:
    """Whether two pieces have an element in common; if none do, and they have as many as the whole, they are it."""
    sides = zip(*one, *other, strict=True)
    return all(max(begin, begins) < min(end, ends) for begin, end, begins, ends in sides)


def _dtype_by_name(name: str) -> torch.dtype:
    """By the name that safetensors gives it. Raises ValueError for one that no run writes."""
    known = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    if name not in known:
        raise ValueError(f"{name} is a type of numbers that no run writes")
    return known[name]
