"""Deep supervision of two Hugging Face models, without editing them.

Every layer below the last makes the prediction too, with an auxiliary loss. Layers are tapped by their names, as in
`model.named_modules()`.

1. An encoder, BertForSequenceClassification, reads scikit-learn's handwritten digits (8x8 pixels) row by row: the eight
   pixels of a row, each light or dark, are the eight bits of a token. The lower layers predict with small heads, which
   are trained with the model and are not part of it.
2. A decoder, Qwen3ForCausalLM, predicts the next byte of the source text of Python's `argparse`. The lower layers
   predict with the model's own final norm and output layer, so there are no parameters besides the model's. They become
   inactive one after the other in the first half of training.

Both are small and start from random weights: nothing is downloaded.

    pip install "charladder[examples]"
    python examples/hugging_face.py
"""

import argparse
import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, Qwen3Config, Qwen3ForCausalLM

from charladder import auxiliary as aux

START = 257  # the token whose hidden state is classified; rows are the tokens 1 to 256, and 0 is BERT's padding
LENGTH = 64  # bytes in a window


def make_encoder() -> tuple[nn.Module, aux.Objective]:
    config = BertConfig(
        vocab_size=START + 1, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=9, num_labels=10,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    layers = aux.Term(
        F.cross_entropy,
        tap="bert.encoder.layer.[0-2]",  # a pattern: one term for each of these layers
        select=lambda hidden: hidden[:, 0],  # the first token, as BERT's own classifier
        head=aux.heads.linear(10),  # made for each term
        weight=0.3,
    )
    objective = aux.Objective(aux.Term(F.cross_entropy, select="logits"), {"layer": layers})
    return model, objective.build(model, {"input_ids": torch.full((1, 9), START)})  # a forward pass for the shapes


def make_decoder() -> tuple[nn.Module, aux.Objective]:
    config = Qwen3Config(
        vocab_size=256, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
        intermediate_size=96, max_position_embeddings=LENGTH,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    layers = aux.intermediate_terms(
        model, "model.layers.*", next_byte, head=nn.Sequential(model.model.norm, model.lm_head)
    )
    return model, aux.Objective(aux.Term(next_byte, select="logits"), layers, model=model)


def next_byte(logits: Tensor, text: Tensor) -> tuple[Tensor, int]:
    """Position t predicts byte t + 1: logits (B, T, 256), text (B, T). The sum of the losses and their number: the
    number behind a mean over fewer labels than the targets is not known to the library."""
    following = text[:, 1:].flatten()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), following, reduction="sum"), len(following)


def train(name: str, model: nn.Module, objective: aux.Objective, draw: Callable, steps: int) -> dict[str, float]:
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=3e-3)
    bits = []
    for step in range(steps):
        x, y = draw()
        report = objective(model, {"input_ids": x}, y, progress=step / steps)
        optimizer.zero_grad()
        report.total.backward()
        optimizer.step()
        bits.append(report.terms["main"].bits)
        if step % 40 == 0 or step == steps - 1:
            terms = "  ".join(f"{term} {one.bits:.2f}" for term, one in report.terms.items())
            print(f"{name}: step {step + 1:3}, bits: {terms}")
    objective.remove()  # takes the hooks off the model
    return {"first_bits": bits[0], "last_bits": bits[-1]}


def main(steps: int = 120) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    digits = load_digits()
    rows = ((torch.tensor(digits.images) > 7).long() * 2 ** torch.arange(8)).sum(-1) + 1
    x, y, order = F.pad(rows, (1, 0), value=START), torch.tensor(digits.target), torch.randperm(len(rows))

    def digit() -> tuple[Tensor, Tensor]:
        batch = order[torch.randint(1500, (32,))]
        return x[batch], y[batch]

    model, objective = make_encoder()
    encoder, test = train("encoder", model, objective, digit, steps), order[1500:]
    right = model.eval()(input_ids=x[test]).logits.argmax(1) == y[test]
    encoder["accuracy"] = float(right.float().mean())
    print(f"encoder: accuracy of the model alone, on {len(test)} images held out: {encoder['accuracy']:.3f}")

    text = torch.tensor(list(inspect.getsource(argparse).encode()))

    def window() -> tuple[Tensor, Tensor]:
        batch = text[torch.randint(len(text) - LENGTH, (16, 1)) + torch.arange(LENGTH)]
        return batch, batch

    return {"encoder": encoder, "decoder": train("decoder", *make_decoder(), window, steps)}


if __name__ == "__main__":
    main()
