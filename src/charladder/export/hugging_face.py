"""Export to a folder that Hugging Face's transformers opens without remote code, as Qwen3."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from charladder.atomic_io import fsync_folder, write_text
from charladder.errors import UserError
from charladder.export.heads_file import write_heads
from charladder.export.layout import QWEN3, Precision, rename, to_precision
from charladder.export.tokenizer import tokenizer_tables
from charladder.model import ModelConfig
from charladder.model.norm import EPSILON
from charladder.objective import LanguageModelObjective
from charladder.run_creation import make_temporary_folder
from charladder.text import Alphabet
from charladder.training.tensor_files import save_tensors


def qwen3_config(settings: ModelConfig, alphabet: Alphabet, precision: Precision) -> dict[str, Any]:
    """The content of config.json. Both `rope_theta` and `rope_parameters` are there for versions before 5 and after."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": alphabet.size,
        "hidden_size": settings.width,
        "intermediate_size": settings.feed_forward,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.attention_heads,
        "num_key_value_heads": settings.attention_heads,
        "head_dim": settings.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": settings.context,
        "rms_norm_eps": EPSILON,
        "rope_theta": settings.rotary_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": settings.rotary_base},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": precision,
        "torch_dtype": precision,
    }


def tokenizer_config(settings: ModelConfig) -> dict[str, Any]:
    """The content of tokenizer_config.json. Without its class, transformers 5 takes that of Qwen2, which changes the
    text and adds a token."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": settings.context,
        "clean_up_tokenization_spaces": False,
    }


def write_hugging_face(
    path: Path,
    settings: ModelConfig,
    tensors: dict[str, Tensor],
    alphabet: Alphabet,
    unknown: str,
    precision: Precision,
    card: str,
    objective: LanguageModelObjective | None = None,
) -> None:
    """Creates the folder with the network, its tokenizer and the model card; it appears when it is complete.

    tensors: of a Transformer with these settings, by their names there. unknown: of the text settings. objective: its
    heads are written too. Raises UserError if the folder exists or cannot be written.
    """
    if os.path.lexists(path):
        raise exists_error(path)
    try:
        temporary = make_temporary_folder(path)
    except OSError as error:
        raise UserError(f"the folder {path} cannot be made: {error.strerror}") from None
    try:
        named = rename(tensors, QWEN3.of_network(settings.layers))
        save_tensors(temporary / "model.safetensors", to_precision(named, precision), {"format": "pt"})
        if objective is not None:
            write_heads(temporary, objective, precision)
        for name, content in (
            ("config.json", qwen3_config(settings, alphabet, precision)),
            ("tokenizer.json", tokenizer_tables(alphabet, unknown)),
            ("tokenizer_config.json", tokenizer_config(settings)),
        ):
            write_text(temporary / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        write_text(temporary / "README.md", card)
        temporary.rename(path)  # atomic, so a crash leaves no partial folder
        fsync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise exists_error(path) from None
        if isinstance(error, OSError):
            raise UserError(f"the folder {path} cannot be written: {error.strerror or error}") from None
        raise


def exists_error(path: Path) -> UserError:
    return UserError(f"{path} exists and is not overwritten; choose another name")
