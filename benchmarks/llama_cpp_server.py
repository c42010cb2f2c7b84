"""llama.cpp in the package xllamacpp, for benchmarks/exports.py: greedy text with log-probabilities, and token ids."""

import importlib
import json
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class LlamaCpp:
    """A server of llama.cpp in this process, with keys and values in float32. Raises ImportError without xllamacpp."""

    def __init__(self, path: Path, context: int) -> None:
        xllamacpp: Any = importlib.import_module("xllamacpp")
        settings = xllamacpp.CommonParams()
        settings.model.path, settings.n_ctx, settings.n_parallel, settings.verbosity = str(path), context, 1, -1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(settings)

    def generate(self, prompt: list[int], length: int, symbols: int) -> tuple[list[int], Tensor]:
        """A greedy text after a prompt, and the log-probabilities of all symbols before each character, (T, V)."""
        request = {
            "prompt": prompt, "n_predict": length, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False,
            "logprobs": symbols,
        }  # fmt: skip
        answer = self.server.handle_completions(request)
        assert "error" not in answer, answer
        steps = answer["choices"][0]["logprobs"]["content"]
        log_probabilities_TV = torch.full((length, symbols), float("nan"), dtype=torch.float64)
        for row, step in zip(log_probabilities_TV, steps, strict=True):
            for entry in step["top_logprobs"]:
                row[entry["id"]] = entry["logprob"]
        return [step["id"] for step in steps], log_probabilities_TV

    def tokenize(self, text: str) -> list[int]:
        request = urllib.request.Request(
            f"{self.server.listening_address}/tokenize",
            json.dumps({"content": text}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["tokens"]
