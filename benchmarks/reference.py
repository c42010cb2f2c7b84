"""The peer of every training benchmark: a script that an expert would write in an afternoon.

It does not use charladder and has one loss: pre-norm, rotary positions, QK-norm, SwiGLU, Muon for matrices and AdamW
for other parameters, bfloat16 autocast if the processor supports it, short warm-up, linear decay. It must never be made
worse.   python benchmarks/reference.py TEXT --train 4000000 --seconds 300 --out weights.safetensors
"""

import argparse
import json
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

LAYERS, WIDTH, HEADS, CONTEXT, BATCH, ALPHABET = 6, 192, 3, 256, 8, 256
FEED_FORWARD = WIDTH * 8 // 3
MUON_RATE, ADAM_RATE, WARMUP = 0.02, 3e-3, 0.02


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.q_norm, self.k_norm = nn.RMSNorm(WIDTH // HEADS), nn.RMSNorm(WIDTH // HEADS)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate, self.up = nn.Linear(WIDTH, FEED_FORWARD, bias=False), nn.Linear(WIDTH, FEED_FORWARD, bias=False)
        self.down = nn.Linear(FEED_FORWARD, WIDTH, bias=False)
        for last in (self.out, self.down):
            nn.init.zeros_(last.weight)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        h = self.norm1(x)
        q, k, v = (f(h).view(batch, length, HEADS, -1).transpose(1, 2) for f in self.qkv)
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, WIDTH))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(ALPHABET, WIDTH)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, ALPHABET, bias=False)
        nn.init.zeros_(self.head.weight)
        size = WIDTH // HEADS
        angle = torch.outer(torch.arange(CONTEXT), 10000.0 ** (-torch.arange(0, size, 2) / size))
        self.angles = angle.cos(), angle.sin()

    def forward(self, tokens):
        x, cos, sin = self.embedding(tokens), *(t[: tokens.shape[1]] for t in self.angles)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x)).float()


class Muon(torch.optim.Optimizer):
    """Muon with Newton-Schulz iterations in float32. torch.optim.Muon always uses bfloat16, which is 30 times slower on
    processors that emulate it."""

    def __init__(self, params, momentum=0.95):
        super().__init__(params, {"lr": MUON_RATE, "momentum": momentum})

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


def train(text: np.ndarray, seconds: float, seed: int) -> tuple[Transformer, dict]:
    torch.manual_seed(seed)
    half = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    model = Transformer()
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if not any(p is m for m in matrices)]
    adam = torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    optimizers = [Muon(matrices), adam]
    starts = [g["lr"] for o in optimizers for g in o.param_groups]
    generator, begin, step = np.random.default_rng(seed), time.perf_counter(), 0
    while (progress := (time.perf_counter() - begin) / seconds) < 1:
        at = generator.integers(0, len(text) - CONTEXT, BATCH)
        window = torch.from_numpy(np.stack([text[i : i + CONTEXT + 1] for i in at]).astype(np.int64))
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
    return model, {"steps": step, "seconds": used, "characters_per_second": step * BATCH * CONTEXT / used}


def load(weights: str) -> Transformer:
    model = Transformer()
    model.load_state_dict(load_file(weights))
    return model.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    parser.add_argument("--train", type=int, required=True, help="characters to train on, from the start of the text")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    network, facts = train(np.fromfile(options.text, np.uint8, options.train), options.seconds, options.seed)
    save_file(network.state_dict(), options.out)
    print(json.dumps(facts))
