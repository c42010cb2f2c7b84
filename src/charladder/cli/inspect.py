"""charladder inspect"""

import dataclasses
import json
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from charladder.cli.options import Parser, add_recipe_options, overrides, recipe_fields
from charladder.errors import BadInput
from charladder.model import ModelSettings, Transformer
from charladder.recipe import Recipe, resolve, tables
from charladder.run import fresh_objective, open_run
from charladder.text import Alphabet


def main(argv: list[str]) -> int:
    parser = Parser(
        "inspect",
        "What a run or a recipe is: parameters in training and at inference, operations, memory, all settings.",
        "charladder inspect t64",
    )
    parser.add_argument("what", nargs="?", metavar="RUN|RECIPE", help="default: the recipe ladder")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_recipe_options(parser)
    options = parser.read(argv)
    if options.what and options.recipe:
        raise BadInput("RUN|RECIPE and --recipe name two things to inspect; give one")
    if options.what and Path(options.what).is_dir():
        if overrides(options):
            raise BadInput(f"{options.what} is a run, which has its settings; recipe fields go with a recipe")
        recipe = open_run(Path(options.what)).recipe
    else:
        options.recipe = options.what or options.recipe
        recipe = resolve(recipe_fields(options))
    facts = describe(recipe)
    if options.json:
        print(json.dumps({**facts, "config": tables(recipe)}))
        return 0
    console = Console()
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_row("rungs, width, context", f"{facts['layers']}, {facts['width']}, {facts['context']}")
    table.add_row("parameters in training", f"{facts['parameters']['training']:,}")
    table.add_row("parameters at inference", f"{facts['parameters']['inference']:,}")
    table.add_row("operations a character, training", f"{facts['operations_per_character']['training']:,}")
    table.add_row("operations a character, inference", f"{facts['operations_per_character']['inference']:,}")
    table.add_row("memory in training, estimate", f"{facts['memory_bytes']['training'] / 2**30:.2f} GiB")
    table.add_row("memory at inference, estimate", f"{facts['memory_bytes']['inference'] / 2**30:.2f} GiB")
    console.print(table)
    for section in ("text", "model", "objective", "training"):
        console.print(f"\n[{section}]", markup=False, highlight=False)
        for name, value in dataclasses.asdict(getattr(recipe, section)).items():
            console.print(f"{name} = {json.dumps(value)}", markup=False, highlight=False, soft_wrap=True)
    return 0


def describe(recipe: Recipe) -> dict:
    """The numbers of a recipe. Operations: two for each weight of a product, three times that in training."""
    alphabet = Alphabet(recipe.text.letters)
    with torch.device("meta"):
        network = Transformer(recipe.model, alphabet.size)
        objective = fresh_objective(recipe, alphabet)
    inference = sum(p.numel() for p in network.parameters())
    heads = sum(p.numel() for p in objective.parameters())
    products = sum(p.numel() for n, p in network.named_parameters() if p.ndim == 2 and not n.startswith(("emb", "tab")))
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
            "training": 4 * 4 * (inference + heads) + activations(recipe, model, alphabet.size),
            "inference": 4 * inference + 8 * model.layers * model.width * model.context,
        },
    }


def activations(recipe: Recipe, model: ModelSettings, alphabet: int) -> int:
    """A rough count of the bytes that the backward pass needs: what each layer keeps a character, in float32."""
    windows = recipe.training.micro_batch or recipe.training.batch
    feed_forward = (4 if model.block == "modern" else 3) * model.feed_forward
    weights = 4 * model.attention_heads * model.context if model.dropout else 0
    layer = 12 * model.width + feed_forward + weights
    terms = recipe.objective.targets * (model.layers if recipe.objective.rungs else 1)
    return 4 * windows * model.context * (model.layers * layer + 2 * terms * alphabet)
