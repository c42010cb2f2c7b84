"""charladder train"""

import contextlib
import dataclasses
import json
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from charladder.cli.display import Display
from charladder.cli.estimate import check_memory, fitted, fitting
from charladder.cli.options import AUTO, BUDGETS, Parser, add_recipe_options, overrides, recipe_fields
from charladder.cli.reading import reading, say_notes
from charladder.cli.scoring import score_run
from charladder.cli.terminal import Terminal
from charladder.errors import BadInput, out_of_memory
from charladder.evaluation import evaluate
from charladder.model.native import describe
from charladder.recipe import resolve
from charladder.run import (
    Run,
    claimed,
    create_run,
    file_ends,
    make_trainer,
    new_path,
    open_data,
    open_run,
    plan_run,
    split_of,
    steps_at_begin,
    write_config,
)
from charladder.text import Corpus, Report, open_corpus, silent
from charladder.text.sources import STDIN
from charladder.training import NotFinite, Saved, Trainer, train
from charladder.training.checkpoint import list_checkpoints
from charladder.training.compilation import uncompiled
from charladder.training.curves import draw_curves
from charladder.training.distributed import first, leader, local_rank, restarts, size, together, wait
from charladder.training.memory import peak_bytes
from charladder.training.metrics import Metrics, read_metrics
from charladder.training.precision import choose_device


def main(argv: list[str]) -> int:
    parser = Parser(
        "train",
        "Trains a network on DATA with auxiliary losses: at all positions, from all rungs, of several targets.\n"
        "DATA is `python` (the standard library's sources; the default), text8 or enwik8, a file (plain, .gz, .xz,\n"
        ".bz2, .zst, .zip, .tar), a folder, a pattern in quotes, a URL, or - for standard input.",
        "charladder train book.txt --minutes 3",
    )
    parser.add_argument("data", nargs="*", metavar="DATA", help="one or more, one after the other")
    # torchrun takes --run for an unclear one of its own, wherever it stands, and --run-dir for none.
    about = "where to keep the run (default runs/<recipe>-<n>); under torchrun say --run-dir"
    parser.add_argument("--run", "--run-dir", metavar="DIR", help=about)
    parser.add_argument("--resume", metavar="RUN", help="go on with this run, with everything as it was")
    parser.add_argument("--extend", action="store_true", help="with --resume and a budget: change the budget")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_recipe_options(parser)
    options = parser.read(argv)
    with together(), contextlib.ExitStack() as claims:
        console = Terminal(stderr=options.json, lasting=True, quiet=not leader())
        again = restarted(options)
        if again is not None:
            claims.enter_context(claimed(again))
        run, corpus, trainer = begun(options) if again is None else resumed(options, again)
        if again is None:
            claims.enter_context(claimed(run.path))
        return carry_out(console, run, corpus, trainer, options.json)


def restarted(options: Namespace) -> Path | None:
    """The run to go on with: the one of --resume; or, where torchrun starts a job anew, the one it had begun."""
    if options.resume is not None:
        return Path(options.resume)
    done, most = restarts()
    if most and options.run is None:
        raise BadInput(
            "torchrun may start this job anew, which must then know its run; give --run-dir DIR (or --max-restarts 0)"
        )
    there = done > 0 and first(lambda: (Path(options.run) / "config.toml").is_file())
    return Path(options.run) if there else None


def carry_out(console: Console, run: Run, corpus: Corpus, trainer: Trainer, as_json: bool) -> int:
    """Trains, and says how it ended; returns the exit code."""
    begin(console, run, corpus, trainer)
    try:
        interrupted = follow(console, run, corpus, trainer)
        if not interrupted:
            if leader():
                finish(console, run, corpus, trainer, as_json)
            return 0
    except BrokenPipeError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        windows = trainer.settings.micro_batch or trainer.settings.batch // size()
        smaller = fitting(run.recipe, trainer.device)
        smaller = smaller if 0 < smaller < windows else windows // 2
        advice = (
            f"--training.micro-batch {smaller} (the same batch in parts)"
            if smaller
            else "--context, --width or --layers"
        )
        raise BadInput(
            f"{windows} windows at once do not fit into the memory of {trainer.device}; {kept(run)}; start a new run "
            f"with {'' if smaller else 'a smaller '}{advice}"
        ) from None
    except OSError as error:
        raise BadInput(
            f"{run.path} cannot be written: {error.strerror or error}; {kept(run)}; when it can be, go on with "
            f"charladder train --resume {shlex.quote(str(run.path))}"
        ) from None
    except NotFinite as error:
        print(
            f"charladder: {error}; {kept(run)}; lower the learning rate or raise the warm-up and start a new run",
            file=sys.stderr,
        )
        return 1
    console.print(
        f"stopped and saved; go on with: charladder train --resume {shlex.quote(str(run.path))}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    return 130


def kept(run: Run) -> str:
    """What is left of a run that went wrong."""
    there = list_checkpoints(run.path / "checkpoints")
    return f"the last good checkpoint, {there[-1]}, is kept" if there else "there was no checkpoint yet"


def begun(options: Namespace) -> tuple[Run, Corpus, Trainer]:
    """A new run directory, made only when everything that can be checked has been."""
    raw = recipe_fields(options)
    if options.extend:
        raise BadInput("--extend changes the budget of a run that exists; give it with --resume RUN")
    if options.data:
        raw["text.data"] = tuple(options.data)
    find_batch = raw.get("training.micro_batch") == AUTO
    recipe = resolve(raw | {"training.micro_batch": 0} if find_batch else raw)
    path = Path(first(lambda: str(new_path(recipe.recipe))) if options.run is None else options.run)
    if first(path.exists):
        raise BadInput(f"{path} exists and a run is never overwritten; choose another --run, or --resume {path}")
    text = recipe.text
    if size() > 1 and STDIN in text.data:
        raise BadInput("standard input can be read by one process only, and there are several; save it as a file")
    corpus = read_in_turn(lambda report: open_corpus(text.data, text.alphabet, text.encoding, text.unknown, report))
    run = plan_run(path, recipe, corpus)
    device = choose_device(recipe.training.device)
    if find_batch:
        run = fitted(run, device)
    check_memory(run.recipe, device)
    trainer = make_trainer(run, corpus)
    first(lambda: create_run(run, corpus))
    return run, corpus, trainer


def read_in_turn(read: Callable[[Report], Corpus]) -> Corpus:
    """A text, which the first process on each machine converts, if need be, and the others then find in the cache."""
    if local_rank() != 0:
        wait()
        return read(silent)
    with reading() as report:
        corpus = read(report)
    if leader():
        say_notes(corpus)
    wait()
    return corpus


def resumed(options: Namespace, path: Path) -> tuple[Run, Corpus, Trainer]:
    """A run that exists, with its data, which must be what it was; a changed budget only with --extend."""
    run = open_run(path)
    if options.resume is None:  # torchrun starts the job anew, with the words that began it
        return continued(run, {})
    given = overrides(options)
    if options.run is not None or options.recipe is not None or options.data:
        raise BadInput("--resume takes the recipe and the data from the run; leave out --run, --recipe and DATA")
    if set(given) - BUDGETS or (given and not options.extend):
        name = min(set(given) - BUDGETS or given)
        raise BadInput(
            f"--resume takes everything from {run.path}, and {name} is given; leave it out, or start a new run"
            + (" (a changed budget wants --extend)" if set(given) <= BUDGETS else "")
        )
    if given:
        budget = {name.split(".")[1]: 0 for name in BUDGETS} | {n.split(".")[1]: v for n, v in given.items()}
        training = dataclasses.replace(run.recipe.training, **budget)
        run = Run(run.path, dataclasses.replace(run.recipe, training=training))
    return continued(run, given)


def continued(run: Run, given: dict[str, Any]) -> tuple[Run, Corpus, Trainer]:
    """A run at its newest checkpoint. `given`: a budget that is not the one of config.toml."""
    corpus = read_in_turn(lambda report: open_data(run, report))
    check_memory(run.recipe, choose_device(run.recipe.training.device))
    trainer = make_trainer(run, corpus, lambda sentence: print(f"note: {sentence}", file=sys.stderr))
    if given:
        if trainer.progress >= 1:
            name, amount = next(iter(given.items()))
            raise BadInput(f"{run.path} has spent a budget of {name} {amount:g} already; give a larger one")
        first(lambda: write_config(run))
    return run, corpus, trainer


def begin(console: Console, run: Run, corpus: Corpus, trainer: Trainer) -> None:
    """Says what is trained on what."""
    network = sum(p.numel() for p in trainer.network.parameters())
    heads = sum(p.numel() for p in trainer.objective.parameters())
    train_part = split_of(run.recipe, corpus).train
    precision = str(trainer.precision).removeprefix("torch.")
    slower = "" if trainer.device.type != "cpu" or describe().startswith("C ") else f", steps with {describe()}"
    console.print(
        f"{run.path}: {run.recipe.recipe}, {run.recipe.model.layers} rungs of {run.recipe.model.width}, "
        f"{network:,} parameters and {heads:,} in auxiliary heads, {trainer.device} {precision}{slower}\n"
        f"{corpus.name}: {len(corpus.ids_N):,} characters ({described(corpus)}), {train_part[1]:,} to train on",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if trainer.parallel != "one":
        console.print(f"{size()} processes, {trainer.parallel.upper()}", highlight=False)
    unused = train_part[1] - train_part[0] - trainer.windows.used
    if unused:
        console.print(
            f"note: {unused:,} characters lie in files shorter than a window, and are not trained on", highlight=False
        )
    if trainer.clock.step:
        console.print(f"going on from step {trainer.clock.step}", highlight=False)
        if steps_at_begin(run) not in (None, describe()):
            console.print(
                "note: training steps are computed otherwise here than where the run began (environment.json): weights "
                "may differ in their last bits from those of a run that was not interrupted", highlight=False
            )  # fmt: skip


def described(corpus: Corpus) -> str:
    """The alphabet, and the files where there are several."""
    size = f" of {corpus.alphabet.size}" if corpus.alphabet.letters else ""
    return f"{corpus.alphabet.kind}{size}" + (f", {len(corpus.ends_F):,} files" if len(corpus.ends_F) > 1 else "")


def follow(console: Console, run: Run, corpus: Corpus, trainer: Trainer) -> bool:
    """Trains with a display until the budget is spent; True when somebody asked to stop before."""
    asked: list[int] = []
    valid = split_of(run.recipe, corpus).valid
    stretch = (valid[0], min(valid[1], valid[0] + run.recipe.training.validation_characters))

    def validate() -> float:
        context = run.recipe.model.context
        trainer.whole.eval()
        with uncompiled(trainer.compiled):
            return evaluate(
                trainer.predict, corpus.ids_N, stretch, context, max(1, context // 2), corpus.alphabet.size,
                trainer.device, ends_F=file_ends(run.recipe, corpus),
            ).bits_per_character  # fmt: skip

    interrupted = False
    has_valid = valid[1] > valid[0]
    with asking(asked), Display(console, trainer) as display:
        for event in train(trainer, run.path, validate if has_valid else None, lambda: bool(asked)):
            display.show(event)
            if isinstance(event, Saved):
                interrupted = event.interrupted
    return interrupted


@contextlib.contextmanager
def asking(asked: list[int]) -> Iterator[None]:
    """Ctrl-C, a request to end (SIGTERM) and a terminal that closes (SIGHUP, unless somebody wants that ignored, as
    nohup does) are noted in `asked`: the step is finished and saved. A second one does not wait for that."""

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, signal.default_int_handler)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {one: signal.getsignal(one) for one in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def finish(console: Console, run: Run, corpus: Corpus, trainer: Trainer, as_json: bool) -> None:
    """The final score on the whole valid part, the plot, and what to do next."""
    clock = trainer.clock
    valid = split_of(run.recipe, corpus).valid
    bits = None
    if valid[1] > valid[0]:
        score = score_run(console, run, corpus, "valid", device=trainer.device)
        bits = score["bits_per_character"]
        record_final_score(run.path / "metrics.jsonl", clock.step, clock.characters, score)
    plot = draw_curves(run.path)
    memory = peak_bytes(trainer.device)
    speed = clock.characters / clock.seconds if clock.seconds else 0.0
    name = shlex.quote(str(run.path))
    where = f"{plot}" if plot else 'no curves.png, for matplotlib is missing: pip install "charladder[plot]"'
    console.print(
        f"{clock.step:,} steps, {clock.characters:,} characters in {clock.seconds:.0f} s "
        f"({speed:,.0f} characters/s), {trainer.windows.passes:.2f} passes over the training text"
        f"{f', peak memory {memory / 2**30:.2f} GiB' if memory else ''}\n"
        f"curves: {where}\n"
        f"next:   charladder generate {name} --prompt 'def ' --length 400\n"
        f"        charladder evaluate {name} --split test\n"
        f"        charladder train --resume {name} --extend {longer(trainer)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if bits is not None:
        console.print(f"valid: {bits:.4f} bits per character", highlight=False)
    if as_json:
        print(
            json.dumps(
                {
                    "run": str(run.path),
                    "steps": clock.step,
                    "seconds": clock.seconds,
                    "characters_per_second": speed,
                    "valid_bits_per_character": bits,
                    "peak_memory_bytes": memory,
                }
            )
        )


def record_final_score(path: Path, step: int, characters: int, score: dict[str, Any]) -> None:
    """Adds the whole part's score to the metrics, once a step, however often a finished run is resumed."""
    known = any(line["step"] == step and "split" in line and "part" not in line for line in read_metrics(path))
    if not known:
        metrics = Metrics(path, step)
        metrics.write({"step": step, "trained_characters": characters, **score})
        metrics.close()


def longer(trainer: Trainer) -> str:
    """The budget twice as long, as an option."""
    settings = trainer.settings
    if settings.minutes:
        return f"--minutes {2 * settings.minutes:g}"
    return f"--steps {2 * settings.steps}" if settings.steps else f"--chars {2 * settings.characters}"
