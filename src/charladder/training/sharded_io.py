"""Files of sharded tensors, in the safetensors format of torch.distributed.checkpoint (DCP).

The default format of DCP is not used, because its metadata is a pickle, which can run code. One process can read the
files as full tensors, whatever the number of ranks that wrote them.
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

_SHARDING_KEY = "DCP_SHARDING_INFO"  # metadata entry of a file: the offsets of its shard of each tensor
_OFFSETS_KEY = "saved_offsets"


def save(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Writes the shards of this rank to `folder`; all ranks call it. Raises OSError if a rank cannot write."""
    # Imported here and below, because the import is slow and most runs have one process.
    from torch.distributed.checkpoint import state_dict_saver
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    barrier()
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        state_dict_saver.save({name: tensor.detach() for name, tensor in tensors.items()}, storage_writer=writer)
    except CheckpointException as error:
        causes = [cause for cause, *_ in error.failures.values()]
        raise next((cause for cause in causes if isinstance(cause, OSError)), OSError(str(causes[0]))) from None


def load(folder: Path) -> dict[str, Tensor]:
    """The full tensors in `folder`. Raises ValueError, before it allocates memory, if shards have gaps or overlap."""
    from torch.distributed.checkpoint import state_dict_loader
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        shapes = check_shards(folder)
        reader = HuggingFaceStorageReader(str(folder))
        tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
        state: dict[str, Any] = dict(tensors)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # because of no_dist
            state_dict_loader.load(state, storage_reader=reader, no_dist=True)
    except (RecursionError, RuntimeError, AssertionError, AttributeError, CheckpointException) as error:
        raise ValueError(f"its shards cannot be read: {str(error).splitlines()[0]}") from None
    return tensors


def check_shards(folder: Path) -> dict[str, tuple[list[int], torch.dtype]]:
    """Shapes and dtypes of tensors, from the headers of files. Raises ValueError if shards have gaps or overlap."""
    dtypes: dict[str, torch.dtype] = {}
    shards: dict[str, list[tuple[list[int], list[int]]]] = {}  # begin and end of each shard in each dimension
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            info = json.loads((opened.metadata() or {}).get(_SHARDING_KEY, "{}"))
            for name in opened.keys():  # noqa: SIM118
                shard = opened.get_slice(name)
                shape, offsets = shard.get_shape(), info[name][_OFFSETS_KEY]
                if len(offsets) != len(shape) or not all(type(o) is int and 0 <= o < 1 << 53 for o in offsets):
                    raise ValueError(f"{file.name} has no valid offsets of its shard of {name}")
                ends = [offset + length for offset, length in zip(offsets, shape, strict=True)]
                shards.setdefault(name, []).append((offsets, ends))
                dtype = _dtype_by_name(shard.get_dtype())
                if dtypes.setdefault(name, dtype) != dtype:
                    raise ValueError(f"the shards of {name} have different dtypes")
    shapes = {}
    for name, parts in shards.items():
        shape = [max(ends) for ends in zip(*(ends for _, ends in parts), strict=True)]
        elements = sum(math.prod(e - b for b, e in zip(*part, strict=True)) for part in parts)
        if elements != math.prod(shape) or any(_overlap(*pair) for pair in itertools.combinations(parts, 2)):
            raise ValueError(f"the shards of {name} have gaps or overlap")
        shapes[name] = shape
    return {name: (shape, dtypes[name]) for name, shape in shapes.items()}


def _overlap(one: tuple[list[int], list[int]], other: tuple[list[int], list[int]]) -> bool:
    """Whether two shards have an element in common."""
    sides = zip(*one, *other, strict=True)
    return all(max(begin, other_begin) < min(end, other_end) for begin, end, other_begin, other_end in sides)


def _dtype_by_name(name: str) -> torch.dtype:
    """The dtype with the name `name` in safetensors. Raises ValueError for one that runs do not use."""
    dtypes = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    if name not in dtypes:
        raise ValueError(f"runs do not use the dtype {name}")
    return dtypes[name]
