"""Export to GGUF, the file format of llama.cpp."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from charladder.atomic_io import atomic_write
from charladder.errors import UserError
from charladder.export.layout import GGUF, Precision, rename, to_precision
from charladder.model import ModelConfig
from charladder.model.norm import EPSILON
from charladder.text import Alphabet

if TYPE_CHECKING:
    from gguf import GGUFWriter


def gguf_tokens(alphabet: Alphabet) -> list[str]:
    """The tokens of llama.cpp's tokenizer `rwkv`, which reads the bytes of a token from its escaped form: the bytes
    0x00 to 0xff, or the UTF-8 of each letter."""
    data = [letter.encode() for letter in alphabet.letters] or [bytes([byte]) for byte in range(256)]
    return ["".join(f"\\x{byte:02x}" for byte in token) for token in data]


def write_gguf(
    path: Path, settings: ModelConfig, tensors: dict[str, Tensor], alphabet: Alphabet, precision: Precision, name: str
) -> None:
    """Writes a network as a GGUF file. tensors: of a Transformer with these settings, by their names there.

    Vectors, the gains of the norms, are stored in float32 in each precision, as llama.cpp requires; with bfloat16 they
    have been rounded too. Raises UserError if gguf is not installed, and OSError; FileAppeared as `atomic_write`.
    """
    try:
        import gguf
    except ImportError:
        raise UserError('GGUF needs the package gguf; install it with pip install "charladder[gguf]"') from None
    types = gguf.GGMLQuantizationType
    with atomic_write(path, overwrite=False) as part:
        writer = gguf.GGUFWriter(part, "qwen3")
        try:
            _add_settings(writer, settings, name)
            _add_tokenizer(writer, alphabet, gguf.TokenType.NORMAL)
            files = gguf.LlamaFileType
            writer.add_file_type(files.MOSTLY_BF16 if precision == "bfloat16" else files.ALL_F32)
            rounded = to_precision(rename(tensors, GGUF.of_network(settings.layers)), precision)
            for key, tensor in rounded.items():
                if tensor.ndim == 2 and precision == "bfloat16":
                    words: Any = tensor.contiguous().view(torch.int16).numpy()
                    writer.add_tensor(key, words.view("uint8"), raw_dtype=types.BF16)
                else:
                    writer.add_tensor(key, tensor.float().numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def _add_settings(writer: "GGUFWriter", settings: ModelConfig, name: str) -> None:
    writer.add_name(name)
    writer.add_block_count(settings.layers)
    writer.add_context_length(settings.context)
    writer.add_embedding_length(settings.width)
    writer.add_feed_forward_length(settings.feed_forward)
    writer.add_head_count(settings.attention_heads)
    writer.add_head_count_kv(settings.attention_heads)
    writer.add_key_length(settings.head_size)
    writer.add_value_length(settings.head_size)
    writer.add_rope_freq_base(settings.rotary_base)
    writer.add_layer_norm_rms_eps(EPSILON)


def _add_tokenizer(writer: "GGUFWriter", alphabet: Alphabet, normal: Any) -> None:
    """The tokenizer `rwkv`: the kinds `llama` and `gpt2` do not give every byte its id."""
    writer.add_vocab_size(alphabet.size)
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list(gguf_tokens(alphabet))
    writer.add_token_types([normal] * alphabet.size)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
