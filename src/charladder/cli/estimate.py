"""What a recipe needs, before anything of it is made: parameters, operations, memory."""

import dataclasses
from typing import Any

import torch

from charladder.errors import UserError
from charladder.model import ModelConfig, Transformer
from charladder.recipe import Recipe
from charladder.run import Run, new_objective
from charladder.text import Alphabet
from charladder.training.distributed import all_reduce_min, world_size
from charladder.training.memory import free_and_total_memory, peak_bytes

_MAX_MEMORY_SHARE = 0.8  # of the free memory that an estimate may fill


def _count_parameters(recipe: Recipe, alphabet: Alphabet) -> tuple[int, int, int]:
    """Parameters of the network, those of its matrix products, and those of the auxiliary heads.

    Counted at one and two layers, on no memory; each further layer adds as much as the second.
    """

    def count(layers: int) -> tuple[int, int, int]:
        few = dataclasses.replace(recipe.model, layers=layers)
        with torch.device("meta"):
            network = Transformer(few, alphabet.size)
            objective = new_objective(dataclasses.replace(recipe, model=few), alphabet)
        named = list(network.named_parameters())
        products = sum(p.numel() for n, p in named if p.ndim == 2 and not n.startswith(("emb", "tab", "ngrams")))
        return sum(p.numel() for _, p in named), products, sum(p.numel() for p in objective.parameters())

    one, two = count(1), count(2)
    first, second, third = (a + (recipe.model.layers - 1) * (b - a) for a, b in zip(one, two, strict=True))
    return first, second, third


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """The numbers of a recipe. Operations: two for each weight of a product, three times that in training."""
    alphabet = Alphabet(recipe.text.letters)
    inference, products, heads = _count_parameters(recipe, alphabet)
    # attention reads half the context on average while training, and all of it in a full cache
    model = recipe.model
    attention = 4 * model.layers * model.width
    return {
        "parameters": {"training": inference + heads, "inference": inference},
        "layers": model.layers,
        "width": model.width,
        "context": model.context,
        "operations_per_character": {
            "training": 3 * (2 * (products + heads) + attention * model.context // 2),
            "inference": 2 * products + attention * model.context,
        },
        "memory_bytes": {
            "training": 4 * 4 * (inference + heads) + _activation_bytes(recipe, model, alphabet.size),
            "inference": 4 * inference + 8 * model.layers * model.width * model.context,
            "runtime": peak_bytes(torch.device("cpu")),  # of this process: Python and its libraries
        },
    }


def _activation_bytes(recipe: Recipe, model: ModelConfig, alphabet_size: int) -> int:
    """A rough count of the bytes that the backward pass needs: what each layer keeps a character, in float32."""
    windows = recipe.training.micro_batch or recipe.training.batch
    feed_forward = (4 if model.block == "modern" else 3) * model.feed_forward
    weights = 4 * model.attention_heads * model.context if model.dropout else 0
    layer = 12 * model.width + feed_forward + weights
    terms = recipe.objective.targets * (model.layers if recipe.objective.intermediate else 1)
    return 4 * windows * model.context * (model.layers * layer + 2 * terms * alphabet_size)


def check_memory(recipe: Recipe, device: torch.device) -> None:
    """Raises UserError for a recipe that cannot possibly be trained in the memory there is.

    Counted low: weights, gradients and one moment, and a quarter of the estimate for activations.
    """
    alphabet = Alphabet(recipe.text.letters)
    inference, _, heads = _count_parameters(recipe, alphabet)
    least = 12 * (inference + heads) + _activation_bytes(recipe, recipe.model, alphabet.size) // 4
    there = device_memory(device)
    if there is not None and least > there[1]:
        raise UserError(
            f"this network cannot be trained here: it needs more than {least / 2**30:,.0f} GiB of memory, and "
            f"{device.type} has {there[1] / 2**30:,.0f}; lower --layers, --width, --context, --batch or "
            f"--training.micro-batch{_batch_advice(recipe, device)}"
        )


def device_memory(device: torch.device) -> tuple[int, int] | None:
    """Bytes that are free, and bytes that there are; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    return free_and_total_memory()


def max_windows(recipe: Recipe, device: torch.device) -> int:
    """How many windows at once fit into the memory that is free, by the estimate; 0 where not even one does."""
    alphabet, free = Alphabet(recipe.text.letters), device_memory(device)
    inference, _, heads = _count_parameters(recipe, alphabet)
    own = recipe.training.batch // world_size()
    if free is None:
        return own

    def needed(windows: int) -> int:
        training = dataclasses.replace(recipe.training, micro_batch=windows)
        parts = dataclasses.replace(recipe, training=training)
        return 16 * (inference + heads) + _activation_bytes(parts, recipe.model, alphabet.size)

    here = free[0] // (world_size() if device.type == "cpu" else 1)  # ranks on one machine share its memory
    while own and needed(own) > _MAX_MEMORY_SHARE * here:
        own //= 2
    return own


def _batch_advice(recipe: Recipe, device: torch.device) -> str:
    """What would fit, in words."""
    windows = max_windows(recipe, device)
    if not 0 < windows < (recipe.training.micro_batch or recipe.training.batch):
        return ""
    return f" (--batch {windows} fits, or the same batch in parts: --training.micro-batch {windows}, --batch auto)"


def fit_micro_batch(run: Run, device: torch.device) -> Run:
    """The run with as many windows at once as memory holds; the mathematics stay as they are.

    Raises UserError where not even one window fits.
    """
    if run.recipe.training.batch < world_size():
        return run  # whoever shares it out says so
    windows = all_reduce_min(max_windows(run.recipe, device))
    if not windows:
        check_memory(run.recipe, device)
        raise UserError(
            f"not even one window of {run.recipe.model.context} characters fits into the memory of {device.type}; "
            "lower --layers, --width or --context"
        )
    micro_batch = 0 if windows >= run.recipe.training.batch // world_size() else windows
    training = dataclasses.replace(run.recipe.training, micro_batch=micro_batch)
    return dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, training=training))
