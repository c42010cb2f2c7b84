"""Training steps of this project and of its peers, with one architecture: pre-norm, rotary positions, QK-norm, SwiGLU,
one loss, AdamW.

Each function returns a step function: random windows, forward, backward, optimizer. Peers are PyTorch loops in bfloat16
if the processor supports it, optionally compiled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import reference as plain_script
from charladder.recipe import RecipeFields, load_recipe_fields, resolve
from charladder.run_creation import plan_run
from charladder.text import open_corpus
from charladder.trainer_factory import new_trainer
from charladder.training import Trainer
from charladder.training.devices import choose_precision

ALPHABET = 256
RATE = 1e-3


@dataclass(frozen=True)
class Shape:
    """The shape of a network and its batch; `head` is the head size."""

    layers: int
    width: int
    head: int
    feed_forward: int
    context: int
    batch: int

    @property
    def heads(self) -> int:
        return self.width // self.head

    @property
    def operations(self) -> float:
        """Model operations of one step: two for each weight and character, times three for forward and backward passes;
        causal attention; no recomputation, norms or optimizer."""
        weights = self.layers * (4 * self.width**2 + 3 * self.width * self.feed_forward) + ALPHABET * self.width
        attention = self.layers * 2 * self.width * (self.context + 1)
        return 3 * self.batch * self.context * (2 * weights + attention)


def fresh_trainer(raw: RecipeFields) -> Trainer:
    """A trainer of these recipe fields on the corpus `python`, without a run directory; by default on the CPU, as the
    peers."""
    corpus = open_corpus(("python",))
    return new_trainer(plan_run(Path("unused"), resolve({"training.device": "cpu"} | raw), corpus), corpus)


def ours(shape: Shape, **fields: Any) -> Callable[[], object]:
    """The complete training step of this project. fields: further recipe fields, with `__` for the dot."""
    raw = load_recipe_fields("ladder") | {
        "model.layers": shape.layers,
        "model.width": shape.width,
        "model.attention_heads": shape.heads,
        "model.feed_forward": shape.feed_forward,
        "model.context": shape.context,
        "training.batch": shape.batch,
        "training.minutes": 0.0,
        "training.steps": 1_000_000,
        "training.optimizer": "adamw",
        "training.learning_rate": RATE,
        "training.diagnose_every": 0,
        "objective.intermediate": False,
        "objective.targets": 1,
    }
    raw |= {name.replace("__", "."): value for name, value in fields.items()}
    return fresh_trainer(raw).step


def plain_step(model: nn.Module, logits: Callable[[nn.Module, Tensor], Tensor], shape: Shape) -> Callable[[], object]:
    """The step of a plain training loop."""
    text = open_corpus(("python",)).ids_N
    generator = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    half = choose_precision("auto", torch.device("cpu")) == torch.bfloat16

    def step() -> None:
        at = generator.integers(0, len(text) - shape.context, shape.batch)
        window = torch.from_numpy(np.stack([text[i : i + shape.context + 1] for i in at]).astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            predicted = logits(model, window[:, :-1])
        loss = F.cross_entropy(predicted.float().flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def reference(shape: Shape, compile: bool) -> Callable[[], object]:
    """benchmarks/reference.py's network at this shape."""
    model = plain_script.Transformer(
        plain_script.Settings(
            layers=shape.layers, width=shape.width, heads=shape.heads, feed_forward=shape.feed_forward,
            context=shape.context, batch=shape.batch,
        )
    )  # fmt: skip
    if compile:
        model.compile()
    return plain_step(model, lambda network, x: network(x), shape)


def qwen3(shape: Shape, compile: bool) -> Callable[[], object]:
    """Hugging Face's Qwen3, the architecture that `ladder` exports to."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=ALPHABET, hidden_size=shape.width, num_hidden_layers=shape.layers, head_dim=shape.head,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads, intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.context, tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).train()
    if compile:
        model.compile()
    return plain_step(model, lambda network, x: network(x).logits, shape)


def x_transformers(shape: Shape, compile: bool) -> Callable[[], object]:
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(
        dim=shape.width, depth=shape.layers, heads=shape.heads, attn_dim_head=shape.head, attn_flash=True,
        attn_qk_norm=True, rotary_pos_emb=True, use_rmsnorm=True, ff_swish=True, ff_glu=True, ff_no_bias=True,
        ff_mult=shape.feed_forward / shape.width,
    )  # fmt: skip
    model = TransformerWrapper(
        num_tokens=ALPHABET, max_seq_len=shape.context, attn_layers=layers, use_abs_pos_emb=False
    )
    if compile:
        model.compile()
    return plain_step(model, lambda network, x: network(x), shape)
