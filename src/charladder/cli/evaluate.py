"""charladder evaluate"""

import json
from pathlib import Path

from charladder.cli.options import Parser
from charladder.cli.reading import reading, say_notes
from charladder.cli.scoring import score_run
from charladder.cli.terminal import Terminal
from charladder.errors import BadInput
from charladder.run import open_data, open_run
from charladder.text import POLICIES, open_corpus
from charladder.training.precision import choose_device


def main(argv: list[str]) -> int:
    parser = Parser(
        "evaluate",
        "Bits per character of RUN on its held-out text, or on all of DATA. Every character is scored once, from at\n"
        "least C - S + 1 characters before it (C the context, S the stride); stride 1 is the paper's protocol.",
        "charladder evaluate runs/ladder-1 --split test --stride 64",
    )
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("data", nargs="*", metavar="DATA", help="other text, scored whole (as in train)")
    parser.add_argument("--split", choices=("valid", "test"), help="which held-out part (default valid)")
    parser.add_argument("--context", type=int, metavar="C", help="characters of context (default: as trained)")
    parser.add_argument("--stride", type=int, metavar="S", help="characters scored a window (default C/2)")
    parser.add_argument("--limit", type=int, metavar="N", help="score only the first N characters")
    parser.add_argument("--encoding", metavar="X", help="text encoding of DATA (default: as trained)")
    parser.add_argument(
        "--unknown", choices=POLICIES, help="letters of DATA outside the alphabet (default: as trained)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.read(argv)
    if options.split and options.data:
        raise BadInput("--split is of the run's own text, and DATA is scored whole; give one of them")
    if not options.data and (options.encoding or options.unknown):
        raise BadInput(
            "--encoding and --unknown are for DATA, and the run's own text is read as it was; leave them out"
        )
    device = choose_device(options.device)
    run = open_run(Path(options.run))
    text = run.recipe.text
    encoding, unknown = options.encoding or text.encoding, options.unknown or text.unknown
    with reading() as report:
        if options.data:
            corpus = open_corpus(options.data, run.alphabet, encoding, unknown, report)
        else:
            corpus = open_data(run, report)
    say_notes(corpus)
    console = Terminal(stderr=options.json)
    part = "all" if options.data else options.split or "valid"
    result = score_run(console, run, corpus, part, options.context, options.stride, options.limit, device)
    if options.json:
        print(json.dumps(result))
        return 0
    console.print(
        f"{result['characters']:,} characters in {result['seconds']:.1f} s, context {result['context']}, "
        f"stride {result['stride']}",
        highlight=False,
    )
    console.print(f"{part}: {result['bits_per_character']:.4f} bits per character", highlight=False)
    return 0
