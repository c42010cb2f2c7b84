"""Drafting heads on disk: `drafting.safetensors` in a run directory, beside the network that they were fitted to."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from charladder.errors import UserError
from charladder.generation.speculative.drafting_heads import DraftingHeads
from charladder.model.config import MAX_SIZE
from charladder.run import Run
from charladder.training.identity import entries
from charladder.training.tensor_files import file_digest, load_tensors, save_tensors

FILE_NAME = "drafting.safetensors"
MAX_FILE_BYTES = 1 << 31  # bytes of it


@dataclass(frozen=True)
class HeadsMetadata:
    """What stands beside the heads: the network they were fitted to (SHA-256 of its file), and after how many steps
    and characters they last learned."""

    network: str
    steps: int
    characters: int


def save_heads(run: Run, heads: DraftingHeads, about: HeadsMetadata) -> None:
    """Writes a run's drafting heads, over older ones. Raises OSError."""
    save_tensors(
        run.path / FILE_NAME, heads.state_dict(), {"about": json.dumps(about.__dict__), **entries(run.identity)}
    )


def load_heads(run: Run) -> tuple[DraftingHeads, HeadsMetadata] | None:
    """A run's drafting heads; None where it has none. Raises UserError where they are not whole, or another's."""
    path = run.path / FILE_NAME
    if not path.exists() and not path.is_symlink():
        return None
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path} is no plain file, and is not followed")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path} is larger than any that refit writes, and is not read")
        with safe_open(path, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            plain = all(part.get_dtype() == "F32" for part in slices.values())
            about = _parse_metadata((opened.metadata() or {}).get("about", ""))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None
    again = f"`charladder refit {run.words}` makes new ones"
    with torch.device("meta"):
        made = _heads_from_shapes(run, shapes)
    if (
        not plain
        or about is None
        or made is None
        or shapes != {n: tuple(t.shape) for n, t in made.state_dict().items()}
    ):
        raise UserError(f"{path} does not hold drafting heads of this network; {again}")
    if about.network != file_digest(run.network_path):
        raise UserError(f"{path} was fitted to another network than {run.network_path.name} is now; {again}")
    heads = _heads_from_shapes(run, shapes)
    assert heads is not None
    try:
        heads.load_state_dict(load_tensors(path, run.identity))
    except UserError as error:
        raise UserError(f"{error}; {again}") from None
    return heads.eval(), about


def _heads_from_shapes(run: Run, shapes: dict[str, tuple[int, ...]]) -> DraftingHeads | None:
    """Heads for tensors of these names and shapes; None where there is nothing of the kind."""
    gate = shapes.get("chain.gate.weight", ())
    kinds: dict[str, list[int]] = {"targets": [], "early_exit": []}
    for name in shapes:
        kind, _, rest = name.partition(".")
        number = rest.removesuffix(".weight")
        if kind in kinds and number.isdecimal() and len(number) < 5:
            kinds[kind].append(int(number))
    width, most = run.recipe.model.width, MAX_SIZE["feed_forward"]
    if (
        len(gate) != 2
        or gate[1] != width
        or not 1 <= gate[0] <= most
        or any(not 1 <= r < run.recipe.model.layers for r in kinds["early_exit"])
    ):
        return None
    return DraftingHeads(width, run.alphabet.size, gate[0], tuple(kinds["targets"]), tuple(kinds["early_exit"]))


def _parse_metadata(text: str) -> HeadsMetadata | None:
    try:
        found: Any = json.loads(text)
        about = HeadsMetadata(**found)
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = about.steps, about.characters
    plain = isinstance(about.network, str) and all(type(n) is int and 0 <= n < 1 << 40 for n in numbers)
    return about if plain else None
