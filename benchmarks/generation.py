"""How fast is text written, one stream and many, against peers with the same weights, and with drafts?

A trained run is given with --run (its drafting heads too: `charladder refit`), and the text that prompts come from with
--text; the prompts are 64 characters each from the run's own valid part. All write at temperature 1, one prompt after
the other, alternated; characters per second count all of it, reading the prompt too. Peers that are not installed are
absent: transformers; llama.cpp as llama-cpp-python (built from source) or as xllamacpp, with gguf.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import report
from benchmarks.writers import Ours, Write, hugging_face, llama_cpp, xllamacpp
from charladder.generation import GenerationLoop, SamplingParams
from charladder.generation.speculative import AutoDrafter, IndependentHeadsDrafter, NgramDrafter
from charladder.generation.speculative.factory import LENGTHS_TO_TRY, make_drafter
from charladder.generation.text_generator import Precision
from charladder.inference.factory import open_runner
from charladder.run import Run, open_data, open_run, split_of

PROMPT = 64
PEERS = {"transformers": hugging_face, "llama.cpp": llama_cpp, "xllamacpp": xllamacpp}
KINDS: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks generation", description=__doc__)
    parser.add_argument("--run", required=True, type=Path, help="a trained run, refitted")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--length", type=int, help="characters after each (default: what the context holds)")
    parser.add_argument("--lengths", default="2,3,4,5,6", help="characters that `targets` drafts at once")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--long", type=int, default=20_000, help="characters of the long text")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.prompts, options.lengths, options.long, options.streams = 3, "4", 2000, 8
    run = open_run(options.run)
    network, corpus = run.network(), open_data(run)
    split = split_of(run.recipe, corpus)
    begin, end = split.valid
    length = options.length or run.recipe.model.context - PROMPT
    starts = np.linspace(begin, end - PROMPT, options.prompts, endpoint=False).astype(int)
    prompts = [corpus.ids_N[start : start + PROMPT].tolist() for start in starts]
    training = corpus.ids_N[split.train[0] : split.train[1]]
    contenders, absent = make_contenders(run, network, training, [int(n) for n in options.lengths.split(",")])
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    accepted: dict[str, list[float]] = {}
    for write in contenders.values():
        write(prompts[:1], 16)  # whatever is made at the first call
    for prompt in prompts:
        for name, write in contenders.items():
            began = time.perf_counter()
            (written,) = write([prompt], length)
            speeds[name].append(len(written) / (time.perf_counter() - began))
            if isinstance(write, Ours) and write.writer is not None:
                accepted.setdefault(name, []).append(write.writer.accepted_per_pass)
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    many = many_streams(run, network, training, prompts, options.streams)
    long = long_text(network, options.long, prompts[0])
    auto = automatic(run, network, prompts[0], 1000 if options.quick else 5000, 1 if options.quick else 5)
    rows = [("contender", "chars/s", "accepted a pass")]
    for name, speed in medians.items():
        rows.append((name, f"{speed:,.0f}", f"{statistics.mean(accepted[name]):.2f}" if name in accepted else ""))
    rows += [(f"{options.streams} streams, {name}", f"{speed:,.0f}", "") for name, speed in many.items()]
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
    report("how fast is text written?", ratios(medians, many) | auto, measured, settings, rows, options.json)
    return 0


def make_contenders(
    run: Run, network: Any, training: np.ndarray, lengths: list[int]
) -> tuple[dict[str, Write], list[str]]:
    found: dict[str, Write] = {}
    absent = []
    for precision, dtype in KINDS.items():
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


def many_streams(
    run: Run, network: Any, training: np.ndarray, prompts: list[list[int]], streams: int
) -> dict[str, float]:
    """Undrafted, all at once: median of three, alternated."""
    given, found = [prompts[n % len(prompts)] for n in range(streams)], {}
    writers: dict[str, Write] = {
        f"none {precision}": Ours(run, "none", None, precision, training) for precision in KINDS
    }
    for precision, dtype in KINDS.items():
        try:
            writers[f"transformers {precision}"] = hugging_face(network, dtype)
        except ImportError:
            continue
    speeds: dict[str, list[float]] = {name: [] for name in writers}
    for turn in range(4):
        for name, write in writers.items():
            began = time.perf_counter()
            written = write(given, 64)
            if turn:
                speeds[name].append(sum(map(len, written)) / (time.perf_counter() - began))
    for name, several in speeds.items():
        found[name] = statistics.median(several)
    return found


def long_text(network: Any, characters: int, prompt: list[int]) -> dict[str, Any]:
    """Speed and memory over a long text, by tenths."""
    writer = GenerationLoop(open_runner(network), [prompt], characters, SamplingParams())
    (stream,) = writer.sequences
    speeds, memory = [], []
    for tenth in range(1, 11):
        began, before = time.perf_counter(), len(stream.ids)
        while len(stream.ids) < characters * tenth // 10:
            writer.step()
        speeds.append((len(stream.ids) - before) / (time.perf_counter() - began))
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {
        "characters_per_second": speeds, "memory_mib": memory, "shown": f"{speeds[0]:,.0f} and {speeds[-1]:,.0f}, "
        f"memory {memory[0]:,.0f} and {memory[-1]:,.0f} MiB",
    }  # fmt: skip


def automatic(run: Run, network: Any, prompt: list[int], characters: int, rounds: int) -> dict[str, float]:
    """Seconds of `auto`, from a fresh start, over those of no drafter, for a text of so many characters, alternated:
    with the run's own heads, and with ones that never are right. Medians of the rounds' ratios."""
    race, width, alphabet = SamplingParams(coupled=True), run.recipe.model.width, run.alphabet.size
    noise = torch.randn(8, alphabet, width, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {"none": [], "auto": [], "auto with useless heads": []}
    for _ in range(rounds):
        for name, found in seconds.items():
            reader = open_runner(network)
            drafter = make_drafter("auto" if name == "auto" else "none", run, reader, race)
            if name == "auto with useless heads":
                useless = IndependentHeadsDrafter({k + 2: (noise[k], None) for k in range(8)}, race)
                drafter = AutoDrafter(
                    [(useless, LENGTHS_TO_TRY["targets"]), (NgramDrafter(None, 8), LENGTHS_TO_TRY["ngram"])]
                )
            writer = GenerationLoop(reader, [prompt], characters, race, 0, drafter)
            began = time.perf_counter()
            writer.run()
            found.append(time.perf_counter() - began)
    none = seconds.pop("none")
    return {
        f"{name}, cost": statistics.median(one / other for one, other in zip(found, none, strict=True))
        for name, found in seconds.items()
    }


def ratios(medians: dict[str, float], many: dict[str, float]) -> dict[str, float]:
    found = {}
    for precision in KINDS:
        mine = {name: speed for name, speed in medians.items() if name.endswith(precision)}
        none = mine[f"none {precision}"]
        drafted = [n for n in mine if n.split()[0] in ("targets", "early-exit", "ngram", "auto")]
        best = max(mine[name] for name in drafted)
        found[f"best drafter over none, {precision}"] = best / none
        for name in drafted:
            found[f"{name} over none"] = mine[name] / none
        for peer in PEERS:
            if f"{peer} {precision}" in mine:
                found[f"none over {peer}, {precision}"] = none / mine[f"{peer} {precision}"]
                found[f"best over {peer}, {precision}"] = max(best, none) / mine[f"{peer} {precision}"]
        if f"transformers {precision}" in many:
            found[f"streams over transformers, {precision}"] = (
                many[f"none {precision}"] / many[f"transformers {precision}"]
            )
    return found
