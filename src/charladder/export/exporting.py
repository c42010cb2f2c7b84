"""Export of a run: the checks, and one function for each format."""

import os
from pathlib import Path

from charladder.atomic_io import FileAppeared
from charladder.errors import UserError
from charladder.export.gguf_file import write_gguf
from charladder.export.heads_file import load_heads
from charladder.export.hugging_face import exists_error, write_hugging_face
from charladder.export.layout import Precision, check_layout
from charladder.export.model_card import model_card
from charladder.run import Run
from charladder.shell_words import name_as_text


def export_hugging_face(run: Run, path: Path, precision: Precision = "float32", heads: bool = False) -> int:
    """Writes the network of a run as a folder for transformers, with its auxiliary heads if `heads`. Returns the
    number of parameters of the network.

    Raises UserError if the network does not have the layout of Qwen3, or if the folder exists or cannot be written.
    """
    check_layout(run.recipe.model, str(run.path))
    if os.path.lexists(path):
        raise exists_error(path)
    tensors = run.load_network().state_dict()
    objective = load_heads(run) if heads else None
    parameters = sum(tensor.numel() for tensor in tensors.values())
    card = model_card(run, parameters, precision, heads, str(path))
    unknown = run.recipe.text.unknown
    write_hugging_face(path, run.recipe.model, tensors, run.alphabet, unknown, precision, card, objective)
    return parameters


def export_gguf(run: Run, path: Path, precision: Precision = "float32") -> int:
    """Writes the network of a run as a GGUF file for llama.cpp. Returns the number of parameters of the network.

    Raises UserError if the network does not have the layout of Qwen3, if gguf is not installed, or if the file exists
    or cannot be written.
    """
    check_layout(run.recipe.model, str(run.path))
    if os.path.lexists(path):
        raise exists_error(path)
    tensors = run.load_network().state_dict()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_gguf(path, run.recipe.model, tensors, run.alphabet, precision, name_as_text(run.path.resolve().name))
    except FileAppeared as error:
        raise UserError(str(error)) from None
    except OSError as error:
        # numpy's error of a full disk has no number, and says how many bytes were written.
        reason = error.strerror or f"the disk is full ({error})"
        raise UserError(f"{path} cannot be written: {reason}") from None
    return sum(tensor.numel() for tensor in tensors.values())
