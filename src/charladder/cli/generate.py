"""charladder generate"""

import codecs
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from charladder.cli.options import Parser
from charladder.cli.scoring import check_context
from charladder.errors import BadInput
from charladder.generation import Sampling, generate
from charladder.run import open_run
from charladder.text import POLICIES
from charladder.training.precision import choose_device


def main(argv: list[str]) -> int:
    parser = Parser(
        "generate",
        "Writes text with RUN, streaming as it goes. Past the context the last C/2 characters are kept.",
        "charladder generate runs/ladder-1 --prompt 'def ' --length 400 --temperature 0.8",
    )
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("--prompt", default="", help="text to go on from (default: none)")
    parser.add_argument("--length", type=int, default=400, metavar="N", help="characters to write (default 400)")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="0 is greedy (default 1)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="only the K likeliest (0: all)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="only the likeliest that make up P")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="only those at least P times the best")
    parser.add_argument("--seed", type=int, default=0, help="the same seed writes the same text (default 0)")
    parser.add_argument("--context", type=int, metavar="C", help="characters of context (default: as trained)")
    parser.add_argument("--unknown", choices=POLICIES, help="letters of the prompt outside the alphabet")
    parser.add_argument("--draft", choices=("auto", "none"), default="auto", help="auto is none until drafters exist")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.read(argv)
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.min_p)
    if options.length < 0:
        raise BadInput(f"--length is {options.length}; it must be at least 0")
    if not 0 <= options.seed < 1 << 63:
        raise BadInput(f"--seed is {options.seed}; it must be at least 0 and below 2^63")
    device = choose_device(options.device)
    run = open_run(Path(options.run))
    model = run.recipe.model
    context = model.context if options.context is None else options.context
    check_context(run, context)
    unknown = options.unknown or run.recipe.text.unknown
    prompt = run.alphabet.encode(os.fsencode(options.prompt), "the prompt", unknown).tolist()
    network = run.network().to(device)
    out = sys.stderr if options.json else sys.stdout
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    print(options.prompt, end="", file=out, flush=True)
    began, ids = time.perf_counter(), []
    for character in generate(network, prompt, options.length, sampling, options.seed, context):
        ids.append(character)
        out.write(decoder.decode(run.alphabet.decode(np.array([character]))))
        out.flush()
    seconds = time.perf_counter() - began
    print(decoder.decode(b"", final=True), file=out)
    if options.json:
        text = run.alphabet.decode(np.array(ids, np.int64)).decode("utf-8", "replace")
        speed = len(ids) / seconds if seconds else 0.0
        facts = {"characters": len(ids), "seconds": seconds, "characters_per_second": speed}
        print(json.dumps({"text": text, **facts, "draft": "none", "accepted_per_pass": 1.0}))
    return 0
