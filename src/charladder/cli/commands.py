"""The names and descriptions of all commands, in the groups of `charladder --help`."""

import importlib
from types import ModuleType

GROUPS = {
    "train": {
        "train": "train a network on a text",
        "refit": "fit heads that draft text to a trained network",
        "study": "train a plan of runs that differ in a few fields, and compare them",
    },
    "use": {
        "generate": "write text with a run",
        "score": "bits of each line, character or file of a text, and the most surprising lines",
        "compress": "a smaller file, by arithmetic coding with a network",
        "decompress": "the original of a file that compress wrote",
        "serve": "answer OpenAI's clients over HTTP, with a page of every layer's predictions",
        "export": "the network of a run for transformers (Hugging Face) or llama.cpp (GGUF)",
        "import": "a run from a folder of transformers, as export writes it",
    },
    "look": {
        "evaluate": "bits per character of a run, on its held-out text or on another text",
        "inspect": "parameters, operations, memory and settings of a run or recipe",
        "plot": "curves of several runs, or the schedule of the layers, as a picture",
        "explain": "the predictions that the auxiliary losses score on a short text, and their weights",
    },
    "data and settings": {
        "corpora": "texts by name: list, download, remove from the cache",
        "recipe": "every field of a recipe: type, default, what it does",
        "completion": "a script that completes commands and options in bash, zsh or fish",
    },
}
COMMANDS = {name: description for group in GROUPS.values() for name, description in group.items()}
ALIASES = {"ablate": "study"}  # until 1.0


def load_command(name: str) -> ModuleType:
    """The module of a command: `make_parser()` returns its options, `main(argv)` runs it and returns the exit code."""
    return importlib.import_module(f"charladder.cli.{name}")
