"""The best weights of a run: those of the validation with the fewest bits, kept beside the last ones while they are
better than these. They are two files, of the network and of the heads; each header has the step and the bits.
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
    """step: after which the weights were saved. bits: per character, of the stretch that validations score."""

    step: int
    bits: float


def save_best(
    folder: Path, network: dict[str, Tensor], heads: dict[str, Tensor], best: BestWeights, identity: str | None = None
) -> None:
    """Writes the weights in place of older ones; a call of all ranks, of which rank 0 writes. Raises OSError."""
    about = {"step": str(best.step), "bits_per_character": repr(best.bits), **identity_metadata(identity)}
    for name, tensors in ((BEST_HEADS_FILE, heads), (BEST_NETWORK_FILE, network)):
        tensors = full_tensors(tensors)
        if is_rank_zero():
            save_tensors(folder / name, tensors, about)


def remove_best(folder: Path) -> None:
    """Removes the best weights, because the last ones are as good."""
    for name in (BEST_NETWORK_FILE, BEST_HEADS_FILE):
        (folder / name).unlink(missing_ok=True)


def read_best(path: Path) -> BestWeights | None:
    """What the header of best.safetensors or best_heads.safetensors says; None where there is no such file, or it does
    not say."""
    try:
        with safe_open(path, framework="pt") as opened:
            about = opened.metadata() or {}
        best = BestWeights(int(about["step"]), float(about["bits_per_character"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    return best if best.step >= 0 and math.isfinite(best.bits) else None
