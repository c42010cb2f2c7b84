"""The best weights of a run: those with the lowest bits per character in a validation.

As long as they are better than the last weights, they are saved too, in two files: network and heads. The metadata of
each file has the step and the bits per character.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from charladder.training.distributed import full_tensors, is_rank_zero
from charladder.training.identity import identity_metadata
from charladder.training.tensor_files import save_tensors

BEST_NETWORK_FILE = "best.safetensors"
BEST_HEADS_FILE = "best_heads.safetensors"


@dataclass(frozen=True)
class BestWeights:
    """step: the step after which the weights were saved. bits: bits per character in the validation."""

    step: int
    bits: float


def save_best(
    folder: Path, network: dict[str, Tensor], heads: dict[str, Tensor], best: BestWeights, identity: str | None = None
) -> None:
    """Replaces the best weights. All ranks call it, and rank 0 writes. Raises OSError if a file cannot be written."""
    metadata = {"step": str(best.step), "bits_per_character": repr(best.bits), **identity_metadata(identity)}
    for name, tensors in ((BEST_HEADS_FILE, heads), (BEST_NETWORK_FILE, network)):
        tensors = full_tensors(tensors)
        if is_rank_zero():
            save_tensors(folder / name, tensors, metadata)


def remove_best(folder: Path) -> None:
    """Removes the best weights."""
    for name in (BEST_NETWORK_FILE, BEST_HEADS_FILE):
        (folder / name).unlink(missing_ok=True)


def read_best(path: Path) -> BestWeights | None:
    """Step and bits from the metadata of best.safetensors or best_heads.safetensors; None if the file or the metadata
    is missing or invalid."""
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
        best = BestWeights(int(metadata["step"]), float(metadata["bits_per_character"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return best if best.step >= 0 and math.isfinite(best.bits) else None
