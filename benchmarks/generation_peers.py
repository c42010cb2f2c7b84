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

from charladder.generation import GenerationLoop
from charladder.generation.speculative.factory import DrafterName
from charladder.generation.text_generator import GenerationConfig, Precision, TextGenerator
from charladder.model import Transformer
from charladder.model.norm import EPSILON
from charladder.run import Run

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
    """`generate` of transformers, on a Qwen3 with the same weights. Raises ImportError."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    s = network.settings
    config = Qwen3Config(
        vocab_size=network.output.out_features, hidden_size=s.width, num_hidden_layers=s.layers, head_dim=s.head_size,
        num_attention_heads=s.attention_heads, num_key_value_heads=s.attention_heads, intermediate_size=s.feed_forward,
        max_position_embeddings=s.context, tie_word_embeddings=False, rms_norm_eps=EPSILON,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": s.rotary_base},
    )  # fmt: skip
    model: Any = Qwen3ForCausalLM(config).eval()
    model.load_state_dict(qwen3_tensors(network))
    ids = torch.randint(0, network.output.out_features, (1, s.context), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = float((model(ids).logits - network(ids).logits_BTV).abs().max())
    assert difference < 1e-2, f"the peer's logits are {difference} apart: it is not the same network"
    model.to(dtype)

    def generate(prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
        prompt_ids = torch.tensor(prompts)
        with torch.inference_mode():
            written = model.generate(
                prompt_ids, attention_mask=torch.ones_like(prompt_ids), do_sample=True, temperature=1.0, top_k=0,
                top_p=1.0, min_new_tokens=length, max_new_tokens=length,
            )  # fmt: skip
        return written[:, prompt_ids.shape[1] :].tolist()

    return generate


def qwen3_tensors(network: Transformer) -> dict[str, torch.Tensor]:
    """The network's weights with the names of Hugging Face's Qwen3."""
    names = {
        "attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm",
        "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj", "attention.output": "self_attn.o_proj",
        "attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm",
        "feed_forward.gate": "mlp.gate_proj", "feed_forward.up": "mlp.up_proj", "feed_forward.down": "mlp.down_proj",
    }  # fmt: skip
    return rename_tensors(network, names, ("model.embed_tokens", "model.norm", "lm_head"), "model.layers.{}.{}.weight")


def rename_tensors(network: Transformer, names: dict[str, str], ends: tuple[str, str, str], block: str) -> dict:
    outer: dict[str, str] = dict(zip(("embedding", "norm", "output"), ends, strict=True))
    found = {}
    for name, tensor in network.state_dict().items():
        if name.startswith("blocks."):
            _, layer, part = name.split(".", 2)
            found[block.format(layer, names[part.removesuffix(".weight")])] = tensor
        else:
            found[outer[name.split(".")[0]] + ".weight"] = tensor
    return found


def write_gguf(network: Transformer, path: Path, dtype: torch.dtype) -> None:
    """Writes the network as a GGUF file with byte tokens. Raises ImportError."""
    gguf: Any = importlib.import_module("gguf")

    s = network.settings
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(s.layers)
    writer.add_context_length(s.context)
    writer.add_embedding_length(s.width)
    writer.add_feed_forward_length(s.feed_forward)
    writer.add_head_count(s.attention_heads)
    writer.add_head_count_kv(s.attention_heads)
    writer.add_key_length(s.head_size)
    writer.add_value_length(s.head_size)
    writer.add_rope_freq_base(s.rotary_base)
    writer.add_layer_norm_rms_eps(EPSILON)
    symbols = range(network.output.out_features)
    writer.add_vocab_size(len(symbols))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<0x{symbol:02X}>" for symbol in symbols])
    writer.add_token_scores([0.0 for _ in symbols])
    writer.add_token_types([gguf.TokenType.BYTE for _ in symbols])
    half = gguf.GGMLQuantizationType.BF16
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if dtype == torch.float32 else gguf.LlamaFileType.MOSTLY_BF16)
    names = {
        "attention_norm": "attn_norm", "feed_forward_norm": "ffn_norm", "attention.query": "attn_q",
        "attention.key": "attn_k", "attention.value": "attn_v", "attention.output": "attn_output",
        "attention.query_norm": "attn_q_norm", "attention.key_norm": "attn_k_norm", "feed_forward.gate": "ffn_gate",
        "feed_forward.up": "ffn_up", "feed_forward.down": "ffn_down",
    }  # fmt: skip
    tensors = rename_tensors(network, names, ("token_embd", "output_norm", "output"), "blk.{}.{}.weight")
    for name, tensor in tensors.items():
        array = tensor.detach().float().numpy()
        if array.ndim == 2 and dtype != torch.float32:
            writer.add_tensor(name, gguf.quantize(array, half), raw_dtype=half)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp(network: Transformer, dtype: torch.dtype) -> GenerateFunction:
    """llama.cpp, built from source by the package llama-cpp-python, on the same weights. Raises ImportError."""
    llama_cpp: Any = importlib.import_module("llama_cpp")

    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "network.gguf"
    write_gguf(network, path, dtype)
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
    write_gguf(network, path, dtype)
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
