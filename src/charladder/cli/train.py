"""`charladder train`: trains a network, or resumes a run."""

import argparse
import contextlib
import time

from rich.console import Console

from charladder.cli.estimate import max_windows
from charladder.cli.final_score import parse_score
from charladder.cli.options import Parser, add_data_option, add_json_option, add_weights_option
from charladder.cli.recipe_options import add_recipe_options
from charladder.cli.run_setup import find_run_to_resume, resume_run, start_run
from charladder.cli.scoring import format_part
from charladder.cli.signals import INTERRUPTED_EXIT_CODE, stop_on_signal
from charladder.cli.terminal import Terminal, print_message
from charladder.cli.tracking import RunTracking, add_track_option, check_track_option
from charladder.cli.training_outcome import TrainingOutcome
from charladder.cli.training_progress import TrainingProgress
from charladder.cli.training_summary import SummaryOptions, summarize
from charladder.environment import read_environment_text
from charladder.errors import UserError, is_out_of_memory
from charladder.evaluation import Score, evaluate
from charladder.objective.cross_entropy_kernels import describe_operations
from charladder.run import Run, file_ends, run_lock, split_corpus
from charladder.shell_words import quote_path
from charladder.text import Corpus, is_truncated
from charladder.training import CheckpointSaved, Trainer, TrainingDiverged, train
from charladder.training.checkpoint import list_checkpoints
from charladder.training.compilation import run_eagerly
from charladder.training.distributed import barrier, is_rank_zero, process_group, world_size


def make_parser() -> Parser:
    parser = Parser(
        "train",
        "Trains a network on DATA with auxiliary losses: at all positions, of all layers, on several targets. "
        "DATA is `python` (the standard library's sources, the default), text8, enwik8, a file (plain or "
        "compressed), a folder, a quoted pattern, a URL, or - for standard input. Several are joined in this order.",
        "charladder train novel.txt --minutes 3",
        "charladder train --resume runs/ladder-1 --extend --minutes 10",
    )
    parser.add_argument("data", nargs="*", default=[], metavar="DATA", help=argparse.SUPPRESS)
    run = parser.add_argument_group("run")
    # torchrun reports --run as an ambiguous abbreviation of its own options, even after the name of the program.
    help_text = "directory of the run (default runs/RECIPE-N); --run-dir under torchrun"
    run.add_argument("--run", "--run-dir", metavar="DIR", help=help_text)
    run.add_argument("--resume", metavar="RUN", help="continue this run, with its settings and its text")
    help_text = "a new run on other text: its weights and recipe, at full learning rate"
    run.add_argument("--from", dest="source", metavar="RUN", help=help_text)
    add_weights_option(run)
    add_data_option(run)
    run.add_argument("--extend", action="store_true", help="with --resume: change the budget or --patience")
    help_text = "characters scored at the end (default: a tenth of those trained on)"
    run.add_argument("--score", metavar="whole|none|INT", help=help_text)
    add_track_option(run)
    add_json_option(run)
    add_recipe_options(parser)
    return parser


def main(argv: list[str]) -> int:
    options = make_parser().parse(argv)
    score = parse_score(options.score)
    with process_group(), contextlib.ExitStack() as locks:
        console = Terminal(stderr=options.json, ignore_write_errors=True, quiet=not is_rank_zero())
        check_track_option(options.track)
        existing = find_run_to_resume(options)
        if existing is not None:
            locks.enter_context(run_lock(existing))
        started = time.perf_counter()
        run, corpus, trainer = start_run(options) if existing is None else resume_run(options, existing)
        if existing is None:
            locks.enter_context(run_lock(run.path))
        summary = SummaryOptions(score, options.json, time.perf_counter() - started)
        tracking = locks.enter_context(RunTracking(console, run, options.track))
        return _train_and_summarize(console, run, corpus, trainer, summary, tracking)


def _train_and_summarize(
    console: Console, run: Run, corpus: Corpus, trainer: Trainer, summary: SummaryOptions, tracking: RunTracking
) -> int:
    """Trains and prints the summary; returns the exit code."""
    _print_start(console, run, corpus, trainer)
    try:
        outcome = _train_with_progress(console, run, corpus, trainer, tracking)
        if not outcome.interrupted:
            return summarize(console, run, corpus, trainer, summary, outcome, tracking) if is_rank_zero() else 0
    except BrokenPipeError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        windows = trainer.settings.micro_batch or trainer.settings.batch // world_size()
        smaller = max_windows(run.recipe, trainer.device)
        smaller = smaller if 0 < smaller < windows else windows // 2
        advice = f"--training.micro-batch {smaller} (the same batch in parts)"
        if not smaller:
            advice = "a smaller --context, --width or --layers"
        raise UserError(
            f"{windows} windows at once do not fit into the memory of {trainer.device}; "
            f"{_describe_last_checkpoint(run)}; start a new run with {advice}"
        ) from None
    except OSError as error:
        raise UserError(
            f"{run.path} cannot be written: {error.strerror or error}; {_describe_last_checkpoint(run)}; when it "
            f"can be, continue with charladder train --resume {quote_path(run.path)}"
        ) from None
    except UserError:
        if is_truncated(corpus.ids_N):
            raise _truncated_text_error(run) from None
        raise
    except TrainingDiverged as error:
        print_message(
            f"{error}; {_describe_last_checkpoint(run)}; lower the learning rate or raise the warm-up and start a new "
            "run"
        )
        return 1
    # The barriers: torchrun ends all processes when one has ended, and rank 0 must print first.
    if is_truncated(corpus.ids_N):
        barrier()
        raise _truncated_text_error(run)
    console.print(
        f"stopped and saved; continue with: charladder train --resume {quote_path(run.path)}{tracking.resume_option}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    tracking.finish(False)
    barrier()
    return INTERRUPTED_EXIT_CODE


def _truncated_text_error(run: Run) -> UserError:
    """The error of a run whose text in the cache was truncated."""
    checkpoints = list_checkpoints(run.path / "checkpoints")
    advice = f"continue with charladder train --resume {quote_path(run.path)}" if checkpoints else "start a new run"
    return UserError(
        f"the text in the cache was truncated by another program; {_describe_last_checkpoint(run)}; {advice}, and the "
        "text is converted again"
    )


def _describe_last_checkpoint(run: Run) -> str:
    """A clause about the newest checkpoint of a run that failed."""
    checkpoints = list_checkpoints(run.path / "checkpoints")
    return f"the last good checkpoint, {checkpoints[-1]}, is kept" if checkpoints else "there was no checkpoint yet"


def _print_start(console: Console, run: Run, corpus: Corpus, trainer: Trainer) -> None:
    """Prints the run, its network, the device and the text."""
    network = sum(p.numel() for p in trainer.network.parameters())
    heads = sum(p.numel() for p in trainer.objective.parameters())
    train_part = split_corpus(run.recipe, corpus).train
    precision = str(trainer.precision).removeprefix("torch.")
    uses_torch_on_cpu = trainer.device.type == "cpu" and not describe_operations().startswith("C ")
    kernel_note = f", steps with {describe_operations()}" if uses_torch_on_cpu else ""
    console.print(
        f"{run.path}: {run.recipe.recipe}, {run.recipe.model.layers} layers of {run.recipe.model.width}, "
        f"{network:,} parameters and {heads:,} in auxiliary heads, {trainer.device} {precision}{kernel_note}\n"
        f"{corpus.name}: {len(corpus.ids_N):,} characters ({_describe_corpus(corpus)}), {train_part[1]:,} to train on",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if trainer.parallel != "none":
        console.print(f"{world_size()} processes, {trainer.parallel.upper()}", highlight=False)
    unused = train_part[1] - train_part[0] - trainer.windows.usable_characters
    if unused:
        console.print(
            f"note: {unused:,} characters are in files shorter than a window, and are not trained on", highlight=False
        )
    if not trainer.counters.step and run.recipe.training.initial_run:
        console.print(
            f"with the weights of {run.recipe.training.initial_run}", highlight=False, markup=False, soft_wrap=True
        )
    if trainer.counters.step:
        console.print(f"continuing from step {trainer.counters.step}", highlight=False)
        if read_environment_text(run.path, "machine", "steps") not in (None, describe_operations()):
            console.print(
                "note: the run began with other kernels than it continues with (environment.json), so weights may "
                "differ in their last bits from those of an uninterrupted run",
                highlight=False
            )  # fmt: skip


def _describe_corpus(corpus: Corpus) -> str:
    """The alphabet, and the number of files if there are several."""
    size = f" of {corpus.alphabet.size}" if corpus.alphabet.letters else ""
    return f"{corpus.alphabet.kind}{size}" + (f", {len(corpus.ends_F):,} files" if len(corpus.ends_F) > 1 else "")


def _train_with_progress(
    console: Console, run: Run, corpus: Corpus, trainer: Trainer, tracking: RunTracking
) -> TrainingOutcome:
    """Trains with a display until the budget is spent, a signal arrives, or the text in the cache is truncated."""
    received_signals: list[int] = []
    scores: list[Score] = []
    valid = split_corpus(run.recipe, corpus).valid
    validation_part = (valid[0], min(valid[1], valid[0] + run.recipe.training.validation_characters))

    def validate() -> float:
        context = run.recipe.model.context
        trainer.parallel_module.eval()
        with run_eagerly(trainer.is_compiled):
            score = evaluate(
                trainer.predict, corpus.ids_N, validation_part, context, max(1, context // 2), corpus.alphabet.size,
                trainer.device, ends_F=file_ends(run.recipe, corpus),
            )  # fmt: skip
        scores.append(score)
        return score.bits_per_character

    def stop() -> bool:
        return bool(received_signals) or is_truncated(corpus.ids_N)

    interrupted = ended_early = False
    has_valid = valid[1] > valid[0]
    scored = "" if validation_part == valid else format_part(validation_part[1] - validation_part[0])
    with stop_on_signal(received_signals), TrainingProgress(console, trainer, scored) as display:
        for event in train(trainer, run.path, validate if has_valid else None, stop):
            display.show(event)
            tracking.watch()
            if isinstance(event, CheckpointSaved):
                interrupted, ended_early = event.interrupted, event.early
    return TrainingOutcome(interrupted, ended_early, bool(received_signals), scores[-1] if scores else None)
