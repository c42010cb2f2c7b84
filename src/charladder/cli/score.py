"""`charladder score`: the bits of each line, character or file of a text."""

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from charladder.cli.notes import print_note, print_text_notes
from charladder.cli.options import Parser, add_device_option, add_json_option, add_weights_option, add_window_options
from charladder.cli.progress import reading_progress
from charladder.cli.score_output import MEASURES, RowOutput, TopRows, open_output, print_top, score_progress
from charladder.cli.scoring import check_context
from charladder.cli.terminal import Terminal
from charladder.errors import UserError
from charladder.evaluation.sliding_window import check_stride
from charladder.generation.empty_prompt import ids_before_empty_prompt
from charladder.run import Run, open_run
from charladder.scoring import LineScorer, RowMaker, read_blocks, score_files
from charladder.shell_words import quote_path
from charladder.strict_json import dumps
from charladder.text import UNKNOWN_POLICIES, find_text_sources, open_corpus
from charladder.text.file_reader import source_size
from charladder.text.sources import STDIN
from charladder.training.devices import choose_device

_MAX_TOP = 10_000
_MAX_SPAN = 1 << 16


def make_parser() -> Parser:
    parser = Parser(
        "score",
        "How surprising RUN finds each line of FILE: JSON lines with its bits and its most surprising span. Each line "
        "is scored by itself, so that its score does not depend on the lines around it.",
        "charladder score runs/ladder-1 access.log --top 20",
        "charladder score runs/ladder-1 pages.jsonl --field text --output scores.jsonl",
    )
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument(
        "files", nargs="*", default=[], metavar="FILE", help="as DATA in train; - or nothing is standard input"
    )
    text = parser.add_argument_group("text")
    text.add_argument("--field", metavar="NAME", help="FILE is JSON lines or parquet; score this field of every row")
    text.add_argument("--encoding", metavar="NAME", help="text encoding of FILE (default: as trained)")
    text.add_argument(
        "--unknown", choices=UNKNOWN_POLICIES, help="letters of FILE outside the alphabet (default: as trained)"
    )
    rows = parser.add_argument_group("rows")
    rows.add_argument("--by", choices=("line", "character", "file"), default="line", help="what a row is")
    help_text = "lines are predicted from the lines before them too"
    rows.add_argument("--continuous", action="store_true", help=help_text)
    rows.add_argument("--span", type=int, default=16, help="characters of the most surprising span")
    rows.add_argument("--entropy", action="store_true", help="add the entropy of every prediction, in bits")
    rows.add_argument("--top", type=int, metavar="N", help="print a table of the N most surprising rows")
    rows.add_argument("--top-by", choices=MEASURES, default=MEASURES[0], help="what --top compares")
    network = parser.add_argument_group("network")
    add_window_options(network)
    add_weights_option(network)
    add_device_option(network)
    output = parser.add_argument_group("output")
    output.add_argument("--output", metavar="FILE", help="write the rows to a new .jsonl or .parquet")
    add_json_option(output)
    return parser


@dataclass(frozen=True)
class _Scoring:
    """What is scored, with which network."""

    run: Run
    predict: Callable[[torch.Tensor, int], torch.Tensor]
    context: int
    stride: int
    device: torch.device
    files: list[str]
    encoding: str
    unknown: str
    options: argparse.Namespace

    @property
    def label(self) -> str:
        first = "standard input" if self.files[0] == STDIN else self.files[0]
        return first if len(self.files) == 1 else f"{len(self.files)} files"


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    _check_options(options)
    job = _open_scoring(options)
    top = None if options.top is None else TopRows(options.top, options.top_by)
    maker = RowMaker(options.by, job.run.alphabet, options.span, options.entropy)
    is_continuous = options.continuous or (options.by != "line" and options.field is None)
    with open_output(maker, options.output, top) as output:
        (_score_whole_files if is_continuous else _score_single_lines)(job, output)
        output.finish()
    _print_results(job, output)
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Raises UserError for options that exclude each other."""
    if options.continuous and options.field is not None:
        raise UserError("--continuous is for the lines of a text, and rows of --field are scored by themselves")
    if options.top is not None and not 1 <= options.top <= _MAX_TOP:
        raise UserError(f"--top is {options.top}; it must be between 1 and {_MAX_TOP:,}")
    if options.top is not None and options.by == "character":
        raise UserError("--top is for lines and files; leave it out, or give another --by")
    if not 1 <= options.span <= _MAX_SPAN:
        raise UserError(f"--span is {options.span}; it must be between 1 and {_MAX_SPAN:,} characters")
    if options.json and options.output is None and options.top is None:
        raise UserError("--json prints one object, and rows are JSON lines; leave it out, or give --output or --top")
    if options.field is None:
        for name in options.files:
            if name.lower().endswith(".parquet"):
                raise UserError(f"{name} is a parquet file; say with --field which column has the texts")


def _open_scoring(options: argparse.Namespace) -> _Scoring:
    device = choose_device(options.device)
    run = open_run(Path(options.run), options.weights)
    context = run.recipe.model.context if options.context is None else options.context
    check_context(run, context)
    stride = max(1, context // 2) if options.stride is None else options.stride
    check_stride(stride, context)
    text, files = run.recipe.text, options.files or [STDIN]
    unknown = options.unknown or text.unknown
    run.alphabet.check_unknown_policy(unknown)
    if files == [STDIN] and sys.stdin is not None and sys.stdin.isatty():
        print_note("the text is read from the terminal; end it with Ctrl-D")
    network = run.load_network().to(device)
    return _Scoring(
        run, lambda tokens_BT, keep: network(tokens_BT, logits_to_keep=keep).logits_BTV, context, stride, device,
        files, options.encoding or text.encoding, unknown, options,
    )  # fmt: skip


def _score_whole_files(job: _Scoring, output: RowOutput) -> None:
    """Scores files as `evaluate` does, each from its own beginning."""
    options = job.options
    with reading_progress() as report:
        corpus = open_corpus(job.files, job.run.alphabet, job.encoding, job.unknown, report)
    print_text_notes(corpus)
    with score_progress(output, job.label, len(corpus.ids_N)) as report_progress:
        score_files(
            job.predict, corpus, job.context, job.stride, job.device, output.consume, options.entropy,
            options.by != "line", lambda characters, bits: report_progress(characters),
        )  # fmt: skip


def _score_single_lines(job: _Scoring, output: RowOutput) -> None:
    """Scores lines, or the texts of rows, each by itself."""
    options, notes = job.options, []
    with reading_progress() as report:
        sources = find_text_sources(job.files, report)
    sizes = [source_size(source) for source in sources]
    scorer = LineScorer(
        job.predict, job.run.alphabet, job.context, job.stride, ids_before_empty_prompt(job.run.alphabet), job.unknown,
        options.entropy, job.device,
    )  # fmt: skip
    done = 0.0
    total = None if None in sizes else sum(size or 0 for size in sizes)
    with score_progress(output, job.label, total) as report_progress:
        for block in read_blocks(sources, job.encoding, options.field, notes):
            share = (block.packed_bytes - done) / max(1, sum(len(line.data) for line in block.lines))

            def report_characters(characters: int, share: float = share) -> None:
                nonlocal done
                done += share * characters
                report_progress(done)

            output.consume(scorer.score(block.lines, report_characters))
            done = block.packed_bytes
    for note in notes:
        print_note(note)
    if not output.lines:
        raise UserError(f"{job.label} is empty; give a file with text in it")


def _print_results(job: _Scoring, output: RowOutput) -> None:
    """Prints the totals and the most surprising rows."""
    options, totals = job.options, output.totals()
    rows = [] if output.top is None else output.top.rows()
    if options.json:
        settings = {"by": options.by, "context": job.context, "stride": job.stride, "weights": job.run.weights}
        print(dumps(totals | settings | ({} if output.top is None else {"top": rows})))
    elif output.top is not None:
        print_top(Terminal(), rows, options.top_by, several_files=len(output.files) > 1)
    lines = [
        f"{totals['lines']:,} lines, {totals['characters']:,} characters, {totals['bits_per_character']:.4f} bits per "
        f"character, in {totals['seconds']:.1f} s ({totals['characters_per_second']:,.0f} characters/s)"
    ]
    if options.output:
        lines.append(f"all rows: {options.output}")
    if output.top is None and options.by == "line" and STDIN not in job.files:
        field = f" {shlex.quote(f'--field={options.field}')}" if options.field else ""
        words = " ".join(map(quote_path, job.files))
        lines.append(f"the most surprising lines: charladder score {job.run.command_arguments} {words}{field} --top 20")
    for line in lines:
        print(line, file=sys.stderr)
