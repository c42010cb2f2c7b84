"""Text generation with the same weights in this project, in Hugging Face's `generate` and in llama.cpp.

Each contender is a function of prompts (ids) and a length, which samples that many characters after each prompt at
temperature 1, without top-k or top-p, and returns them.
"""

import atexit
import importlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from charladder.export import write_gguf, write_hugging_face
from charladder.generation import GenerationLoop
from charladder.generation.speculative.factory import DrafterName
from charladder.generation.text_generator import GenerationConfig, Precision, TextGenerator
from charladder.model import Transformer
from charladder.run import Run
from charladder.text import Alphabet

GenerateFunction = Callable[[Sequence[Sequence[int]], int], list[list[int]]]


class Ours:
    """This project. `loop` is the generation loop of the last call."""

    def __init__(
        self,
        run: Run,
        draft: DrafterName,
        length: int | None,
        precision: Precision,
        training: np.ndarray,
        coupled: bool = False,
    ) -> None:
        settings = GenerationConfig(draft=draft, draft_length=length, precision=precision)
        self.model = TextGenerator(run, settings, training_text=lambda: training)
        self.model.sampling = replace(self.model.sampling, coupled=coupled)
        self.loop: GenerationLoop | None = None

    def __call__(self, prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
        self.model.settings = replace(self.model.settings, length=length)
        self.loop = self.model.start(prompts)
        self.loop.run()
        return [sequence.ids for sequence in self.loop.sequences]


def hugging_face(network: Transformer, dtype: torch.dtype) -> GenerateFunction:
    """`generate` of transformers, on an export of the network. Raises ImportError."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"
        write_hugging_face(path, network.settings, network.state_dict(), _alphabet(network), "error", "float32", "")
        model: Any = AutoModelForCausalLM.from_pretrained(path)
    symbols, context = network.output.out_features, network.settings.context
    ids = torch.randint(0, symbols, (1, context), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = float((model(ids).logits - network(ids).logits_BTV).abs().max())
    assert difference < 1e-2, f"the peer's logits are {difference} apart: it is not the same network"
    model.to(dtype)

    def generate(prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
        prompt_ids = torch.tensor(prompts)
        with torch.inference_mode():
            written = model.generate(
                prompt_ids, attention_mask=torch.ones_like(prompt_ids), do_sample=True, temperature=1.0, top_k=0,
                top_p=1.0, min_new_tokens=length, max_new_tokens=length, pad_token_id=0,
            )  # fmt: skip
        return written[:, prompt_ids.shape[1] :].tolist()

    return generate


def write_peer(network: Transformer, path: Path, dtype: torch.dtype) -> None:
    """Writes the network as a GGUF file. Raises ImportError."""
    importlib.import_module("gguf")
    precision: Precision = "bfloat16" if dtype == torch.bfloat16 else "float32"
    write_gguf(path, network.settings, network.state_dict(), _alphabet(network), precision, "network")


def _alphabet(network: Transformer) -> Alphabet:
    """An alphabet with the size of the network's; the peers get ids, so its letters do not matter."""
    size = network.output.out_features
    return Alphabet("" if size == 256 else "".join(map(chr, range(size))))


def llama_cpp(network: Transformer, dtype: torch.dtype) -> GenerateFunction:
    """llama.cpp, built from source by the package llama-cpp-python, on the same weights. Raises ImportError."""
    llama_cpp: Any = importlib.import_module("llama_cpp")

    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "network.gguf"
    write_peer(network, path, dtype)
    threads, context = torch.get_num_threads(), network.settings.context
    model = llama_cpp.Llama(
        str(path), n_ctx=context, n_batch=context, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    ids = list(range(min(40, network.output.out_features)))
    model.reset()
    model.eval(ids)
    with torch.no_grad():
        expected = network(torch.tensor([ids]), logits_to_keep=1).logits_BTV[0, -1].numpy()
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model._ctx.ctx, -1), expected.shape)
    difference = float(np.abs(logits - expected).max())
    # llama.cpp also rounds the inputs of bfloat16 products.
    assert difference < (0.05 if dtype == torch.float32 else 0.5), f"llama.cpp's logits are {difference} apart"

    def generate(prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
        assert folder
        written = []
        for prompt in prompts:
            tokens = model.generate(list(prompt), temp=1.0, top_k=0, top_p=1.0, min_p=0.0, reset=True)
            written.append([next(tokens) for _ in range(length)])
        return written

    return generate


def xllamacpp(network: Transformer, dtype: torch.dtype) -> GenerateFunction:
    """llama.cpp in the package xllamacpp, through the completions of its server, in a process of its own. The process
    is stopped while others are measured, because its threads would take time from them. Raises ImportError."""
    importlib.import_module("xllamacpp")

    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "network.gguf"
    write_peer(network, path, dtype)
    command = [sys.executable, "-m", "benchmarks.xllamacpp_peer", str(path), str(network.settings.context)]
    peer = subprocess.Popen(
        [*command, str(torch.get_num_threads())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(peer.kill)

    def generate(prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
        assert folder and peer.stdin and peer.stdout
        peer.send_signal(signal.SIGCONT)
        peer.stdin.write(json.dumps({"prompts": [list(prompt) for prompt in prompts], "length": length}) + "\n")
        peer.stdin.flush()
        written = json.loads(peer.stdout.readline())
        peer.send_signal(signal.SIGSTOP)
        return written

    return generate
