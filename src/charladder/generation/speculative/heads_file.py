"""The file of fitted drafting heads in a run directory, `drafting.safetensors`."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from charladder.errors import UserError
from charladder.generation.speculative.drafting_heads import DraftingHeads
from charladder.model.config import MAX_SIZE
from charladder.run import Run
from charladder.training.identity import identity_metadata
from charladder.training.tensor_files import file_digest, load_tensors, save_tensors

FILE_NAME = "drafting.safetensors"
MAX_FILE_BYTES = 1 << 31


@dataclass(frozen=True)
class HeadsMetadata:
    """The metadata of the file. network: SHA-256 of the file of the network that the heads were fitted to. steps,
    characters: of the whole fitting."""

    network: str
    steps: int
    characters: int


def save_heads(run: Run, heads: DraftingHeads, about: HeadsMetadata) -> None:
    """Writes the drafting heads of a run, replacing older ones. Raises OSError."""
    save_tensors(
        run.path / FILE_NAME,
        heads.state_dict(),
        {"about": json.dumps(about.__dict__), **identity_metadata(run.identity)},
    )


def load_heads(run: Run) -> tuple[DraftingHeads, HeadsMetadata] | None:
    """The drafting heads of a run; None if it has none. Raises UserError for a damaged file or another network."""
    path = run.path / FILE_NAME
    if not path.exists() and not path.is_symlink():
        return None
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path} is not a regular file; remove it")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(
                f"{path} is larger than {MAX_FILE_BYTES:,} bytes, so it was not written by `charladder refit`"
            )
        with safe_open(path, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            is_float32 = all(part.get_dtype() == "F32" for part in slices.values())
            about = _parse_metadata((opened.metadata() or {}).get("about", ""))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None
    advice = f"`charladder refit {run.command_arguments}` makes new ones"
    with torch.device("meta"):
        expected = _heads_from_shapes(run, shapes)
    if (
        not is_float32
        or about is None
        or expected is None
        or shapes != {n: tuple(t.shape) for n, t in expected.state_dict().items()}
    ):
        raise UserError(f"{path} does not hold drafting heads of this network; {advice}")
    if about.network != file_digest(run.network_path):
        raise UserError(f"{path} was fitted to another network than {run.network_path.name} is now; {advice}")
    heads = _heads_from_shapes(run, shapes)
    assert heads is not None
    try:
        heads.load_state_dict(load_tensors(path, run.identity))
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
    return heads.eval(), about


def _heads_from_shapes(run: Run, shapes: dict[str, tuple[int, ...]]) -> DraftingHeads | None:
    """Untrained heads for these tensor names and shapes; None if the names or shapes are invalid."""
    gate = shapes.get("chain.gate.weight", ())
    kinds: dict[str, list[int]] = {"targets": [], "early_exit": []}
    for name in shapes:
        kind, _, rest = name.partition(".")
        number = rest.removesuffix(".weight")
        if kind in kinds and number.isdecimal() and len(number) < 5:
            kinds[kind].append(int(number))
    width, max_hidden = run.recipe.model.width, MAX_SIZE["feed_forward"]
    if (
        len(gate) != 2
        or gate[1] != width
        or not 1 <= gate[0] <= max_hidden
        or any(not 1 <= layer < run.recipe.model.layers for layer in kinds["early_exit"])
    ):
        return None
    return DraftingHeads(width, run.alphabet.size, gate[0], tuple(kinds["targets"]), tuple(kinds["early_exit"]))


def _parse_metadata(text: str) -> HeadsMetadata | None:
    try:
        fields: Any = json.loads(text)
        about = HeadsMetadata(**fields)
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = about.steps, about.characters
    is_valid = isinstance(about.network, str) and all(type(n) is int and 0 <= n < 1 << 40 for n in numbers)
    return about if is_valid else None
