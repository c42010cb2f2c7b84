"""Estimates of the parameters, operations and memory of a recipe, without creating its network."""

import dataclasses
from typing import Any

import torch
from torch import nn

from charladder.errors import UserError
from charladder.model import ModelConfig, Transformer
from charladder.objective import has_head, is_chained
from charladder.recipe import Recipe
from charladder.run import Run, new_objective
from charladder.text import Alphabet
from charladder.training.distributed import all_reduce_min, world_size
from charladder.training.memory import free_and_total_memory, peak_bytes

_MAX_MEMORY_SHARE = 0.8  # of free memory


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _count_parameters(recipe: Recipe, alphabet: Alphabet) -> tuple[int, int, int]:
    """Parameters of the network, of its matrix products, and of the auxiliary heads.

    Counted at one and two layers, on the meta device; each further layer adds as much as the second.
    """

    def count(layers: int) -> tuple[int, int, int]:
        few = dataclasses.replace(recipe.model, layers=layers)
        with torch.device("meta"):
            network = Transformer(few, alphabet.size)
            objective = new_objective(dataclasses.replace(recipe, model=few), alphabet)
        products = sum(each.weight.numel() for each in network.modules() if isinstance(each, nn.Linear))
        return _count(network), products, _count(objective)

    one, two = count(1), count(2)
    first, second, third = (a + (recipe.model.layers - 1) * (b - a) for a, b in zip(one, two, strict=True))
    return first, second, third


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """The entries of `inspect --json`. Operations: 2 for each weight of a matrix product, 6 in training. Each chained
    target also has the attention of a layer and the product of the network's output layer."""
    alphabet = Alphabet(recipe.text.letters)
    inference, products, heads = _count_parameters(recipe, alphabet)
    # Attention reads half of the context on average in training, and all of a full cache.
    model = recipe.model
    attention, chained = 4 * model.layers * model.width, _count_chained_targets(recipe)
    chained_attention, head_products = 4 * chained * model.width, heads + chained * alphabet.size * model.width
    return {
        "parameters": {"training": inference + heads, "inference": inference},
        "layers": model.layers,
        "width": model.width,
        "context": model.context,
        "operations_per_character": {
            "training": 3 * (2 * (products + head_products) + (attention + chained_attention) * model.context // 2),
            "inference": 2 * products + attention * model.context,
        },
        "memory_bytes": {
            "training": 4 * 4 * (inference + heads) + _activation_bytes(recipe, model, alphabet.size),
            "inference": 4 * inference + 8 * model.layers * model.width * model.context,
            "runtime": peak_bytes(torch.device("cpu")),  # Python and its libraries, in this process
        },
    }


def _count_chained_targets(recipe: Recipe) -> int:
    """The number of chained modules (objective.target_heads) that are trained."""
    objective, layers = recipe.objective, recipe.model.layers
    ks = range(2, objective.targets + 1)
    return sum(is_chained(objective, layers, layers, k) and has_head(objective, layers, layers, k) for k in ks)


def _activation_bytes(recipe: Recipe, model: ModelConfig, alphabet_size: int) -> int:
    """Estimate of the bytes saved for the backward pass, in float32."""
    windows = recipe.training.micro_batch or recipe.training.batch
    feed_forward = (4 if model.block == "modern" else 3) * model.feed_forward
    weights = 4 * model.attention_heads * model.context if model.dropout else 0
    layer = 12 * model.width + feed_forward + weights
    chained, predicting = _count_chained_targets(recipe), model.layers if recipe.objective.intermediate else 1
    targets = recipe.objective.targets if recipe.objective.target_heads == "independent" else 1
    terms, layers = targets * predicting + chained, model.layers + chained
    return 4 * windows * model.context * (layers * layer + 2 * terms * alphabet_size)


def check_memory(recipe: Recipe, device: torch.device) -> None:
    """Raises UserError for a recipe that cannot be trained in the memory of the device.

    A lower bound: weights, gradients and one moment, and a quarter of the estimate for activations.
    """
    alphabet = Alphabet(recipe.text.letters)
    inference, _, heads = _count_parameters(recipe, alphabet)
    minimum = 12 * (inference + heads) + _activation_bytes(recipe, recipe.model, alphabet.size) // 4
    available = device_memory(device)
    if available is not None and minimum > available[1]:
        raise UserError(
            f"this network cannot be trained here: it needs more than {minimum / 2**30:,.0f} GiB of memory, and "
            f"{device.type} has {available[1] / 2**30:,.0f}; lower --layers, --width, --context, --batch or "
            f"--training.micro-batch{_batch_advice(recipe, device)}"
        )


def device_memory(device: torch.device) -> tuple[int, int] | None:
    """Free and total bytes of a device; None where the system does not report them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    return free_and_total_memory()


def max_windows(recipe: Recipe, device: torch.device) -> int:
    """Estimate of the number of windows that fit into free memory at once; 0 if not even one fits."""
    alphabet, free = Alphabet(recipe.text.letters), device_memory(device)
    inference, _, heads = _count_parameters(recipe, alphabet)
    windows = recipe.training.batch // world_size()
    if free is None:
        return windows

    def required_bytes(windows: int) -> int:
        training = dataclasses.replace(recipe.training, micro_batch=windows)
        parts = dataclasses.replace(recipe, training=training)
        return 16 * (inference + heads) + _activation_bytes(parts, recipe.model, alphabet.size)

    available = free[0] // (world_size() if device.type == "cpu" else 1)  # ranks on one machine share its memory
    while windows and required_bytes(windows) > _MAX_MEMORY_SHARE * available:
        windows //= 2
    return windows


def _batch_advice(recipe: Recipe, device: torch.device) -> str:
    """The end of an error message: the batch that fits, if any."""
    windows = max_windows(recipe, device)
    if not 0 < windows < (recipe.training.micro_batch or recipe.training.batch):
        return ""
    return f" (--batch {windows} fits, or the same batch in parts: --training.micro-batch {windows}, --batch auto)"


def fit_micro_batch(run: Run, device: torch.device) -> Run:
    """The run with the largest micro-batch that fits into memory, which does not change its result.

    Raises UserError if not even one window fits.
    """
    if run.recipe.training.batch < world_size():
        return run  # the split of the batch over processes raises the error
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
