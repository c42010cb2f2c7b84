"""Tensors that lie in pieces on several ranks, on disk: through torch.distributed.checkpoint and its safetensors files.

Its default format is not used: that one's metadata is a pickle, which would run whatever it holds. These files are read
by one process, in whole tensors, however many wrote them.
"""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from charladder.training.distributed import wait

INFO, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"  # where its files say which piece of a tensor they hold


def save(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Every rank writes its pieces to `folder`, all at the same time. Raises OSError where one cannot."""
    wait()
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        state_dict_saver.save({name: tensor.detach() for name, tensor in tensors.items()}, storage_writer=writer)
    except CheckpointException as error:
        causes = [one for one, *_ in error.failures.values()]
        raise next((one for one in causes if isinstance(one, OSError)), OSError(str(causes[0]))) from None


def load(folder: Path) -> dict[str, Tensor]:
    """All tensors in `folder`, whole. Raises ValueError where their pieces do not fit together, before any is made."""
    reader = HuggingFaceStorageReader(str(folder))
    shapes = check_pieces(folder)
    tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
    state: dict[str, Any] = dict(tensors)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is what no_dist asks for
        state_dict_loader.load(state, storage_reader=reader, no_dist=True)
    return tensors


def check_pieces(folder: Path) -> dict[str, tuple[list[int], torch.dtype]]:
    """The shape and type of every tensor, by the heads of the files. Raises ValueError where pieces leave gaps."""
    shapes: dict[str, list[int]] = {}
    types: dict[str, torch.dtype] = {}
    there: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            info = json.loads((opened.metadata() or {}).get(INFO, "{}"))
            for name in opened.keys():  # noqa: SIM118
                piece = opened.get_slice(name)
                shape, offsets = piece.get_shape(), info[name][OFFSETS]
                fits = len(offsets) == len(shape) and all(type(o) is int and o >= 0 for o in offsets)
                if not fits:
                    raise ValueError(f"{file.name} does not say where its piece of {name} belongs")
                ends = [offset + length for offset, length in zip(offsets, shape, strict=True)]
                shapes[name] = [max(pair) for pair in zip(shapes.get(name, ends), ends, strict=True)]
                types[name] = opened.get_tensor(name).dtype if not shape else dtype_of(piece.get_dtype())
                there[name] = there.get(name, 0) + math.prod(shape)
    for name, shape in shapes.items():
        if math.prod(shape) != there[name]:
            raise ValueError(f"the pieces of {name} do not make a whole")
    return {name: (shape, types[name]) for name, shape in shapes.items()}


def dtype_of(name: str) -> torch.dtype:
    """By the name that safetensors gives it. Raises ValueError for one that no run writes."""
    known = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    if name not in known:
        raise ValueError(f"{name} is a type of numbers that no run writes")
    return known[name]
