"""How fast is text generation, with and without drafts, against peers with the same weights?

Needs a trained run with drafting heads (`charladder refit`). Prompts are 64 characters each from the validation part.
Contenders alternate, prompt by prompt, at temperature 1; characters per second include reading the prompt. Peers that
are not installed are reported as absent: transformers; llama.cpp as llama-cpp-python (built from source) or xllamacpp,
both with gguf.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.generation_peers import GenerateFunction, Ours, hugging_face, llama_cpp, xllamacpp
from benchmarks.measure import report
from charladder.generation import GenerationLoop, SamplingParams
from charladder.generation.speculative import AutoDrafter, IndependentHeadsDrafter, NgramDrafter
from charladder.generation.speculative.factory import LENGTHS_TO_TRY, make_drafter
from charladder.generation.text_generator import Precision
from charladder.inference.factory import open_runner
from charladder.run import Run, open_data, open_run, split_corpus

PROMPT_CHARACTERS = 64
PEERS = {"transformers": hugging_face, "llama.cpp": llama_cpp, "xllamacpp": xllamacpp}
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks generation", description=__doc__)
    parser.add_argument("--run", required=True, type=Path, help="a trained run with drafting heads")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--length", type=int, help="characters per prompt (default: fill the context)")
    parser.add_argument("--lengths", default="2,3,4,5,6", help="draft lengths of `targets`")
    parser.add_argument("--streams", type=int, default=64, help="sequences generated together")
    parser.add_argument("--long", type=int, default=20_000, help="length of the long text in characters")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.prompts, options.lengths, options.long, options.streams = 3, "4", 2000, 8
    run = open_run(options.run)
    network, corpus = run.load_network(), open_data(run)
    split = split_corpus(run.recipe, corpus)
    begin, end = split.valid
    length = options.length or run.recipe.model.context - PROMPT_CHARACTERS
    starts = np.linspace(begin, end - PROMPT_CHARACTERS, options.prompts, endpoint=False).astype(int)
    prompts = [corpus.ids_N[start : start + PROMPT_CHARACTERS].tolist() for start in starts]
    training = corpus.ids_N[split.train[0] : split.train[1]]
    contenders, absent = make_contenders(run, network, training, [int(n) for n in options.lengths.split(",")])
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    accepted: dict[str, list[float]] = {}
    for generate in contenders.values():
        generate(prompts[:1], 16)  # initialisation
    for prompt in prompts:
        for name, generate in contenders.items():
            began = time.perf_counter()
            (text,) = generate([prompt], length)
            speeds[name].append(len(text) / (time.perf_counter() - began))
            if isinstance(generate, Ours) and generate.loop is not None:
                accepted.setdefault(name, []).append(generate.loop.accepted_per_pass)
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    many = many_sequences(run, network, training, prompts, options.streams)
    long = long_text(network, options.long, prompts[0])
    auto = auto_cost(run, network, prompts[0], 1000 if options.quick else 5000, 1 if options.quick else 5)
    rows = [("contender", "characters/s", "characters per pass")]
    for name, speed in medians.items():
        rows.append((name, f"{speed:,.0f}", f"{statistics.mean(accepted[name]):.2f}" if name in accepted else ""))
    rows += [(f"{options.streams} sequences, {name}", f"{speed:,.0f}", "") for name, speed in many.items()]
    rows += [(f"{name} (against none)", f"{cost:.3f}", "") for name, cost in auto.items()]
    rows += [(f"absent: {name}", "", "") for name in absent]
    rows.append((f"{options.long:,} characters: first and last tenth", long["shown"], ""))
    measured = {
        "characters_per_second": medians,
        "accepted_per_pass": {name: statistics.mean(found) for name, found in accepted.items()},
        "streams": many, "auto": auto, "long": long, "absent": absent, "all": speeds,
    }  # fmt: skip
    settings: dict[str, Any] = {
        "run": str(options.run), "layers": run.recipe.model.layers, "width": run.recipe.model.width,
        "context": run.recipe.model.context, "length": length, "prompts": options.prompts,
        "data_sha256": run.recipe.text.sha256, "streams": options.streams,
    }  # fmt: skip
    report("how fast is text generation?", ratios(medians, many) | auto, measured, settings, rows, options.json)
    return 0


def make_contenders(
    run: Run, network: Any, training: np.ndarray, lengths: list[int]
) -> tuple[dict[str, GenerateFunction], list[str]]:
    found: dict[str, GenerateFunction] = {}
    absent = []
    for precision, dtype in DTYPES.items():
        found[f"none {precision}"] = Ours(run, "none", None, precision, training)
        for n in lengths:
            found[f"targets {n} {precision}"] = Ours(run, "targets", n, precision, training)
        found[f"early-exit {precision}"] = Ours(run, "early-exit", None, precision, training)
        found[f"ngram {precision}"] = Ours(run, "ngram", None, precision, training)
        found[f"auto {precision}"] = Ours(run, "auto", None, precision, training, coupled=True)
        for name, peer in PEERS.items():
            try:
                found[f"{name} {precision}"] = peer(network, dtype)
            except ImportError as error:
                absent.append(f"{name} {precision} ({error.name})")
    return found, absent


def many_sequences(
    run: Run, network: Any, training: np.ndarray, prompts: list[list[int]], streams: int
) -> dict[str, float]:
    """Characters per second of `streams` sequences together, without drafts: medians of three alternating rounds."""
    batch = [prompts[n % len(prompts)] for n in range(streams)]
    contenders: dict[str, GenerateFunction] = {
        f"none {precision}": Ours(run, "none", None, precision, training) for precision in DTYPES
    }
    for precision, dtype in DTYPES.items():
        try:
            contenders[f"transformers {precision}"] = hugging_face(network, dtype)
        except ImportError:
            continue
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(4):
        for name, generate in contenders.items():
            began = time.perf_counter()
            texts = generate(batch, 64)
            if number:  # the first round is a warm-up
                speeds[name].append(sum(map(len, texts)) / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in speeds.items()}


def long_text(network: Any, characters: int, prompt: list[int]) -> dict[str, Any]:
    """Speed and memory in each tenth of a long text."""
    loop = GenerationLoop(open_runner(network), [prompt], characters, SamplingParams())
    (sequence,) = loop.sequences
    speeds, memory = [], []
    for tenth in range(1, 11):
        began, before = time.perf_counter(), len(sequence.ids)
        while len(sequence.ids) < characters * tenth // 10:
            loop.step()
        speeds.append((len(sequence.ids) - before) / (time.perf_counter() - began))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {
        "characters_per_second": speeds, "memory_mib": memory, "shown": f"{speeds[0]:,.0f} and {speeds[-1]:,.0f}, "
        f"memory {memory[0]:,.0f} and {memory[-1]:,.0f} MiB",
    }  # fmt: skip


def auto_cost(run: Run, network: Any, prompt: list[int], characters: int, rounds: int) -> dict[str, float]:
    """The time with a new AutoDrafter divided by the time without drafts, for a text of this length: with the heads of
    the run, and with random heads. Medians over alternating rounds."""
    coupled, width, alphabet = SamplingParams(coupled=True), run.recipe.model.width, run.alphabet.size
    noise = torch.randn(8, alphabet, width, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {"none": [], "auto": [], "auto with useless heads": []}
    for _ in range(rounds):
        for name, times in seconds.items():
            runner = open_runner(network)
            drafter = make_drafter("auto" if name == "auto" else "none", run, runner, coupled)
            if name == "auto with useless heads":
                useless = IndependentHeadsDrafter({k + 2: (noise[k], None) for k in range(8)}, coupled)
                drafter = AutoDrafter(
                    [(useless, LENGTHS_TO_TRY["targets"]), (NgramDrafter(None, 8), LENGTHS_TO_TRY["ngram"])]
                )
            loop = GenerationLoop(runner, [prompt], characters, coupled, 0, drafter)
            began = time.perf_counter()
            loop.run()
            times.append(time.perf_counter() - began)
    none = seconds.pop("none")
    return {
        f"{name}, cost": statistics.median(one / other for one, other in zip(times, none, strict=True))
        for name, times in seconds.items()
    }


def ratios(medians: dict[str, float], many: dict[str, float]) -> dict[str, float]:
    found = {}
    for precision in DTYPES:
        ours = {name: speed for name, speed in medians.items() if name.endswith(precision)}
        none = ours[f"none {precision}"]
        drafted = [n for n in ours if n.split()[0] in ("targets", "early-exit", "ngram", "auto")]
        best = max(ours[name] for name in drafted)
        found[f"best drafter over none, {precision}"] = best / none
        for name in drafted:
            found[f"{name} over none"] = ours[name] / none
        for peer in PEERS:
            if f"{peer} {precision}" in ours:
                found[f"none over {peer}, {precision}"] = none / ours[f"{peer} {precision}"]
                found[f"best over {peer}, {precision}"] = max(best, none) / ours[f"{peer} {precision}"]
        if f"transformers {precision}" in many:
            found[f"streams over transformers, {precision}"] = (
                many[f"none {precision}"] / many[f"transformers {precision}"]
            )
    return found
