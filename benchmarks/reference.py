"""The peer of every training benchmark: a script that an expert would write in an afternoon.

It does not use charladder and has one loss: pre-norm, rotary positions, QK-norm, SwiGLU, Muon for matrices and AdamW
for other parameters, bfloat16 autocast if the processor supports it, short warm-up, linear decay. It must never be made
worse.   python benchmarks/reference.py TEXT --train 4000000 --seconds 300 --out weights.safetensors
`python -m benchmarks reference_sweep` searches for better settings, under the same budget as other trainers.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

ALPHABET, WARMUP = 256, 0.02


@dataclass(frozen=True)
class Settings:
    """Shape, window (context x batch) and peak learning rates. The weight file has them as metadata."""

    layers: int = 6
    width: int = 192
    heads: int = 3
    feed_forward: int = 512
    context: int = 256
    batch: int = 8
    muon_rate: float = 0.02
    adam_rate: float = 3e-3


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.heads, width, inner = settings.heads, settings.width, settings.feed_forward
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q_norm, self.k_norm = nn.RMSNorm(width // self.heads), nn.RMSNorm(width // self.heads)
        self.qkv = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        for last in (self.out, self.down):
            nn.init.zeros_(last.weight)

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        h = self.norm1(x)
        q, k, v = (f(h).view(batch, length, self.heads, -1).transpose(1, 2) for f in self.qkv)
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Transformer(nn.Module):
    def __init__(self, settings=Settings()):
        super().__init__()
        self.settings, width = settings, settings.width
        self.embedding = nn.Embedding(ALPHABET, width)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, ALPHABET, bias=False)
        nn.init.zeros_(self.head.weight)
        size = width // settings.heads
        angle = torch.outer(torch.arange(settings.context), 10000.0 ** (-torch.arange(0, size, 2) / size))
        self.angles = angle.cos(), angle.sin()

    def forward(self, tokens):
        x, cos, sin = self.embedding(tokens), *(t[: tokens.shape[1]] for t in self.angles)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x)).float()


class Muon(torch.optim.Optimizer):
    """Muon with Newton-Schulz iterations in float32. torch.optim.Muon always uses bfloat16, which is 30 times slower on
    processors that emulate it."""

    def __init__(self, params, lr, momentum=0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p)).lerp_(p.grad, 1 - group["momentum"])
                x = p.grad.lerp(m, group["momentum"])
                x = (x.T if x.shape[0] > x.shape[1] else x) / (x.norm() + 1e-7)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                x = x.T if p.shape[0] > p.shape[1] else x
                p.add_(x, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def train(text: np.ndarray, seconds: float, seed: int, settings: Settings) -> tuple[Transformer, dict]:
    torch.manual_seed(seed)
    context, batch = settings.context, settings.batch
    half = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    model = Transformer(settings)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if not any(p is m for m in matrices)]
    adam = torch.optim.AdamW(rest, lr=settings.adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    optimizers = [Muon(matrices, settings.muon_rate), adam]
    starts = [g["lr"] for o in optimizers for g in o.param_groups]
    generator, begin, step = np.random.default_rng(seed), time.perf_counter(), 0
    while (progress := (time.perf_counter() - begin) / seconds) < 1:
        at = generator.integers(0, len(text) - context, batch)
        window = torch.from_numpy(np.stack([text[i : i + context + 1] for i in at]).astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(window[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        factor = min(1, progress / WARMUP) * (1 - progress)
        for rate, group in zip(starts, (g for o in optimizers for g in o.param_groups), strict=True):
            group["lr"] = rate * factor
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step % 100 == 0:
            print(f"{step:6d} {progress:6.1%} {loss.item() / np.log(2):.3f} bits", flush=True)
    used = time.perf_counter() - begin
    return model, {"steps": step, "seconds": used, "characters_per_second": step * batch * context / used}


def load(weights: str) -> Transformer:
    with safe_open(weights, "pt") as file:
        model = Transformer(Settings(**json.loads(file.metadata()["settings"])))
    model.load_state_dict(load_file(weights))
    return model.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("--train", type=int, required=True, help="characters to train on, from the start of the text")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    chosen = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    network, facts = train(np.fromfile(options.text, np.uint8, options.train), options.seconds, options.seed, chosen)
    save_file(network.state_dict(), options.out, {"settings": json.dumps(asdict(chosen))})
    print(json.dumps(facts))
