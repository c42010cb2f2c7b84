"""The layout of Qwen3: which networks have it, and the names of their tensors in other programs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from charladder.errors import UserError
from charladder.model import ModelConfig

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class TensorNames:
    """The names of a network's tensors in another program, without `.weight`.

    layer: the prefix of layer {}, counted from 0. parts: names inside a layer, by the names of this project.
    """

    embedding: str
    norm: str
    output: str
    layer: str
    parts: Mapping[str, str]

    def of_layer(self, prefix: str) -> dict[str, str]:
        """The names of the tensors of one block, by their names in the block. prefix: before each name."""
        return {f"{ours}.weight": f"{prefix}{theirs}.weight" for ours, theirs in self.parts.items()}

    def of_network(self, layers: int) -> dict[str, str]:
        """The names of all tensors, by their names in a Transformer."""
        names = {
            "embedding.weight": f"{self.embedding}.weight",
            "norm.weight": f"{self.norm}.weight",
            "output.weight": f"{self.output}.weight",
        }
        for layer in range(layers):
            inner = self.of_layer(self.layer.format(layer))
            names |= {f"blocks.{layer}.{ours}": theirs for ours, theirs in inner.items()}
        return names


QWEN3 = TensorNames(
    "model.embed_tokens", "model.norm", "lm_head", "model.layers.{}.", {
        "attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm",
        "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj", "attention.output": "self_attn.o_proj",
        "attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm",
        "feed_forward.gate": "mlp.gate_proj", "feed_forward.up": "mlp.up_proj", "feed_forward.down": "mlp.down_proj",
    },
)  # fmt: skip
GGUF = TensorNames(
    "token_embd", "output_norm", "output", "blk.{}.", {
        "attention_norm": "attn_norm", "feed_forward_norm": "ffn_norm", "attention.query": "attn_q",
        "attention.key": "attn_k", "attention.value": "attn_v", "attention.output": "attn_output",
        "attention.query_norm": "attn_q_norm", "attention.key_norm": "attn_k_norm", "feed_forward.gate": "ffn_gate",
        "feed_forward.up": "ffn_up", "feed_forward.down": "ffn_down",
    },
)  # fmt: skip


def check_layout(settings: ModelConfig, name: str) -> None:
    """Raises UserError if Qwen3 has no place for a part of this network. name: of the run, for the message."""
    reason = None
    if settings.ngrams:
        reason = f"n-gram embeddings (model.ngrams is {settings.ngrams})"
    elif settings.block != "modern":
        reason = f"LayerNorm, ReLU and biases (model.block is {settings.block})"
    elif settings.positions != "rotary":
        reason = f"positions that are no rotary ones (model.positions is {settings.positions})"
    elif settings.norm_placement != "pre":
        reason = f"norms after attention and feed-forward layer (model.norm_placement is {settings.norm_placement})"
    if reason is not None:
        raise UserError(
            f"{name} cannot be exported: it has {reason}, for which Qwen3, the layout of the export, has no place; "
            "networks of the recipe ladder have this layout"
        )


def to_precision(tensors: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """The tensors on the CPU in float32, or rounded to the nearest bfloat16."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return {name: tensor.detach().to("cpu", dtype) for name, tensor in tensors.items()}


def rename(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under their new names. Raises KeyError for a tensor that `names` does not have."""
    return {names[name]: tensor for name, tensor in tensors.items()}
