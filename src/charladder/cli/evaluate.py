"""`charladder evaluate`: measures the bits per character of a run on a text."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from charladder.cli import evaluation_tables
from charladder.cli.notes import print_note, print_text_notes
from charladder.cli.options import (
    Parser,
    add_data_option,
    add_device_option,
    add_json_option,
    add_weights_option,
    add_window_options,
)
from charladder.cli.progress import reading_progress
from charladder.cli.scoring import ScoringJob, check_finite, open_scoring_job, print_score, score_entries, score_job
from charladder.cli.terminal import Terminal
from charladder.errors import UserError
from charladder.evaluation import ScoredCharacters
from charladder.evaluation.character_export import export_characters
from charladder.run import open_data, open_run
from charladder.strict_json import dumps
from charladder.text import UNKNOWN_POLICIES, open_corpus
from charladder.text.encodings import find_codec
from charladder.training.devices import choose_device


def make_parser() -> Parser:
    parser = Parser(
        "evaluate",
        "Bits per character of RUN on its held-out text, or on all of DATA. Every character is scored once, from at "
        "least C - S + 1 characters before it (C the context, S the stride); stride 1 is the paper's protocol.",
        "charladder evaluate runs/ladder-1 --split test --stride 64",
        "charladder evaluate runs/ladder-1 novel.txt --by-layer --json",
    )
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument(
        "data", nargs="*", default=[], metavar="DATA", help="another text, all of which is scored (as in train)"
    )
    text = parser.add_argument_group("text")
    text.add_argument("--split", choices=("valid", "test"), help="held-out part of the run's text (default valid)")
    add_data_option(text)
    text.add_argument("--limit", type=int, help="score only the first N characters")
    text.add_argument("--encoding", metavar="NAME", help="text encoding of DATA (default: as trained)")
    text.add_argument(
        "--unknown", choices=UNKNOWN_POLICIES, help="letters of DATA outside the alphabet (default: as trained)"
    )
    network = parser.add_argument_group("network")
    add_window_options(network)
    add_weights_option(network)
    add_device_option(network)
    output = parser.add_argument_group("more tables and output")
    output.add_argument("--by-context", action="store_true", help="contexts 32, 64 ... C, each at half its stride")
    output.add_argument("--by-layer", action="store_true", help="bits per character of every layer and target")
    output.add_argument("--by-position", action="store_true", help="bits by the number of characters before it")
    output.add_argument("--copying", action="store_true", help="whether invented names are predicted when they recur")
    output.add_argument("--probes", type=int, default=200, help="names for --copying")
    output.add_argument("--seed", type=int, default=0, help="seed of the names for --copying")
    output.add_argument("--export", metavar="FILE", help="bits of every character, to a new .jsonl or .parquet")
    add_json_option(output)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    if options.split and options.data:
        raise UserError("--split is a part of the run's text, and all of DATA is scored; give one of them")
    if options.moved and options.data:
        raise UserError("--data is where the run's text is now, and DATA is another text; give one of them")
    if not options.data and (options.encoding or options.unknown):
        raise UserError(
            "--encoding and --unknown are for DATA, and the run's text is read as in training; leave them out"
        )
    if options.probes < 2 or not 0 <= options.seed < 1 << 63:
        raise UserError("--probes must be at least 2, and --seed at least 0")
    device = choose_device(options.device)
    run = open_run(Path(options.run), options.weights)
    text = run.recipe.text
    encoding, unknown = options.encoding or text.encoding, options.unknown or text.unknown
    with reading_progress() as report:
        if options.data:
            corpus = open_corpus(options.data, run.alphabet, encoding, unknown, report)
        else:
            corpus = open_data(run, report, options.moved)
    print_text_notes(corpus)
    if options.data and not options.encoding and find_codec(encoding) is not None:
        print_note(
            f"{corpus.name} was read as {encoding}, the encoding that {run.path} was trained with; give --encoding if "
            "it has another"
        )
    console = Terminal(stderr=options.json)
    part = "all" if options.data else options.split or "valid"
    held = open_scoring_job(run, corpus, part, options.context, options.stride, options.limit, device)
    with _open_export(options.export, held) as each:
        result = score_entries(held, score_job(console, held, on_scored=each))
    tables = []
    for is_requested, compute in (
        (options.by_context, lambda: evaluation_tables.score_by_context(console, held, options.stride)),
        (options.by_layer, lambda: evaluation_tables.score_by_layer(console, held)),
        (options.by_position, lambda: evaluation_tables.score_by_position(console, held)),
        (options.copying, lambda: evaluation_tables.score_copying(held, options.probes, options.seed)),
    ):
        if is_requested:
            key, rows, table = compute()
            result[key] = rows
            tables.append(table)
    check_finite(held, result)
    if options.json:
        print(dumps(result))
        return 0
    for table in tables:
        console.print(table)
    console.print(
        f"{result['characters']:,} characters in {result['seconds']:.1f} s, context {result['context']}, "
        f"stride {result['stride']}",
        highlight=False,
    )
    if options.export:
        console.print(f"every character: {options.export}", highlight=False, markup=False, soft_wrap=True)
    print_score(console, result)
    return 0


def _open_export(
    name: str | None, held: ScoringJob
) -> AbstractContextManager[Callable[[ScoredCharacters], None] | None]:
    return export_characters(Path(name), held.corpus.alphabet, held.corpus.ids_N) if name else nullcontext()
