"""Do exported networks compute what the run computes, in transformers and in llama.cpp?

Needs a trained run with its text. For each precision the run is exported to a folder and to a GGUF file. Compared are
logits on the validation part, in windows of the network's context; greedy texts, which end at their first difference;
and the ids of a text with every byte value of UTF-8. The reference is the network in float64, with its weights rounded
to the precision of the export. "margin" is the distance between the two best logits where two texts first differ.
llama.cpp (xllamacpp) is asked for the log-probabilities of its greedy texts; its keys and values are in float32, and
its file names a context as long as these texts, because its server does not go past the context. Peers that are not
installed are reported as absent.
"""

import argparse
import copy
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.llama_cpp_server import LlamaCpp
from benchmarks.measure import report
from charladder.export import PRECISIONS, export_hugging_face, import_hugging_face, write_gguf
from charladder.generation import SamplingParams
from charladder.generation.text_generator import GenerationConfig, TextGenerator
from charladder.model import ModelConfig, Transformer
from charladder.run import Run, open_data, open_run, split_corpus

TIE = 1e-4  # logits as near as this are a tie, where float32 arithmetic may choose either
PROMPT_CHARACTERS = 64
EVERY_CHARACTER = "".join(map(chr, range(0x800))) + "ࠀ\u1234\ud7ff\ue000\uffff" + "".join(
    chr((plane << 16) + 0xFFFF - plane) for plane in range(1, 17)
)  # every byte of UTF-8; 0xC0, 0xC1 and 0xF5 to 0xFF are in no text  # fmt: skip


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks exports", description=__doc__)
    parser.add_argument("--run", required=True, type=Path, help="a trained run with its text")
    parser.add_argument("--positions", type=int, default=10_000, help="positions whose logits are compared")
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--length", type=int, default=2000, help="characters of each greedy text")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.positions, options.prompts, options.length = 100, 1, 20
    run = open_run(options.run)
    ids, tensors = held_out_ids(run), run.load_network().state_dict()
    measured: dict[str, Any] = {"absent": []}
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            hf, gguf = Path(folder) / precision, Path(folder) / f"{precision}.gguf"
            export_hugging_face(run, hf, precision)
            rounded = import_hugging_face(hf, Path(folder) / f"{precision}-run")  # our network with rounded weights
            measured[precision] = compare_transformers(rounded, hf, ids, options)
            try:
                write_gguf(gguf, longer_context(run, options), tensors, run.alphabet, precision, "peer")
                measured[precision] |= compare_llama_cpp(rounded, gguf, ids, options)
            except ImportError as error:
                measured["absent"].append(f"llama.cpp: {error}")
    rows = [["comparison", *PRECISIONS]]
    for name in measured[PRECISIONS[0]]:
        rows.append([name, *(_format(measured[precision].get(name)) for precision in PRECISIONS)])
    settings = {name: str(value) for name, value in vars(options).items()}
    report("exports against the run", {}, measured, settings, rows, options.json)
    return 0


def held_out_ids(run: Run) -> np.ndarray:
    corpus = open_data(run)
    begin, end = split_corpus(run.recipe, corpus).valid
    return np.asarray(corpus.ids_N[begin:end]).astype(np.int64)


def longer_context(run: Run, options: argparse.Namespace) -> ModelConfig:
    """The shape of the network, with a context that holds a prompt and a greedy text."""
    settings = run.recipe.model
    return dataclasses.replace(settings, context=max(settings.context, PROMPT_CHARACTERS + options.length))


def compare_transformers(run: Run, folder: Path, ids: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """The largest differences of logits, and of greedy texts, between a run and its export."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    stored: Any = AutoModelForCausalLM.from_pretrained(folder)
    network = run.load_network()
    exact = reference(network)
    context = network.settings.context
    worst = {"ours": 0.0, "transformers": 0.0, "difference": 0.0, "stored": 0.0}
    done = 0
    with torch.inference_mode():
        while done < options.positions:
            tokens = torch.from_numpy(ids[done : done + context])[None]
            expected, ours = exact(tokens).logits_BTV, network(tokens).logits_BTV
            theirs = model(tokens).logits
            for name, one, other in (
                ("ours", ours, expected),
                ("transformers", theirs, expected),
                ("difference", theirs, ours),
                ("stored", stored(tokens).logits, expected),
            ):
                worst[name] = max(worst[name], float((one.double() - other.double()).abs().max()))
            done += tokens.shape[1]

    def generate(prompt: list[int]) -> list[int]:
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            written = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=options.length,
                min_new_tokens=options.length,
            )  # fmt: skip
        return written[0, len(prompt) :].tolist()

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return {
        "positions": done,
        "ours to float64": worst["ours"],
        "transformers to float64": worst["transformers"],
        "transformers to ours": worst["difference"],
        "transformers, arithmetic of the stored dtype": worst["stored"],
        **compare_greedy("transformers", run, network, ids, options, generate),
        "transformers: text to ids": tokenizer(EVERY_CHARACTER)["input_ids"] == list(EVERY_CHARACTER.encode()),
    }


def reference(network: Transformer) -> Transformer:
    """The network in float64."""
    return copy.deepcopy(network).double()


def compare_llama_cpp(run: Run, path: Path, ids: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """As compare_transformers. Logits are compared as log-probabilities, on the text that llama.cpp writes."""
    peer = LlamaCpp(path, PROMPT_CHARACTERS + options.length)
    network, worst, positions = run.load_network(), 0.0, 0

    def generate(prompt: list[int]) -> list[int]:
        nonlocal worst, positions
        written, log_probabilities_TV = peer.generate(prompt, options.length, network.output.out_features)
        with torch.inference_mode():
            tokens = torch.tensor([prompt + written[:-1]])
            expected = network(tokens, logits_to_keep=len(written)).logits_BTV[0].double().log_softmax(-1)
        worst = max(worst, float((log_probabilities_TV - expected).abs().max()))
        positions += len(written)
        return written

    result = compare_greedy("llama.cpp", run, network, ids, options, generate)
    result["llama.cpp: positions"] = positions
    result["llama.cpp to ours, log-probabilities"] = worst
    result["llama.cpp: text to ids"] = peer.tokenize(EVERY_CHARACTER) == list(EVERY_CHARACTER.encode())
    return result


def compare_greedy(
    name: str, run: Run, network: Transformer, ids: np.ndarray, options: argparse.Namespace, generate: Any
) -> dict[str, Any]:
    """How many greedy texts are equal to ours, and the margins at the first differences of the others."""
    context = PROMPT_CHARACTERS + options.length
    settings = GenerationConfig(
        options.length, SamplingParams(temperature=0.0), context=context, draft="none", device="cpu"
    )
    model = TextGenerator(run, settings)
    starts = np.linspace(0, len(ids) - PROMPT_CHARACTERS, options.prompts, endpoint=False).astype(int)
    equal, margins = 0, []
    for start in starts:
        prompt = ids[start : start + PROMPT_CHARACTERS].tolist()
        loop = model.start([prompt])
        loop.run()
        ours, theirs = loop.sequences[0].ids, generate(prompt)
        first = next((n for n in range(options.length) if ours[n] != theirs[n]), None)
        if first is None:
            equal += 1
        else:
            margins.append(margin(network, prompt + ours[:first]))
    return {
        f"{name}: greedy texts of {options.length}": len(starts),
        f"{name}: equal": equal,
        f"{name}: differ first at a tie": sum(one <= TIE for one in margins),
        f"{name}: largest margin": max(margins, default=0.0),
    }


def margin(network: Transformer, ids: list[int]) -> float:
    """The distance between the two best logits after these characters."""
    with torch.inference_mode():
        logits_V: Tensor = network(torch.tensor([ids]), logits_to_keep=1).logits_BTV[0, -1]
    best, second = logits_V.topk(2).values.tolist()
    return best - second


def _format(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}"
