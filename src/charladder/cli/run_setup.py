"""The run that `charladder train` trains: new, resumed, or restarted by torchrun."""

import dataclasses
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from charladder.cli.budget_change import describe_budget_change
from charladder.cli.estimate import check_memory, fit_micro_batch
from charladder.cli.initial_weights import read_initial_fields
from charladder.cli.notes import print_note, print_text_notes
from charladder.cli.progress import reading_progress
from charladder.cli.recipe_options import BUDGET_FIELDS, given_fields, read_recipe_fields
from charladder.default_shape import MIN_EPOCHS, SMALL_TEXT_CHARACTERS
from charladder.environment import read_environment_text
from charladder.errors import UserError
from charladder.recipe import RecipeFields, resolve, shape_fields
from charladder.run import Run, open_data, open_run
from charladder.run_creation import (
    create_numbered_run,
    create_run,
    next_run_path,
    plan_run,
    run_exists_error,
    write_config,
)
from charladder.text import Corpus, ProgressCallback, no_progress, open_corpus
from charladder.text.sources import STDIN
from charladder.trainer_factory import make_trainer, new_trainer
from charladder.training import Trainer, TrainingConfig, ended_early
from charladder.training.devices import choose_device
from charladder.training.distributed import (
    barrier,
    is_rank_zero,
    job_name,
    local_rank,
    on_rank_zero,
    restart_counts,
    world_size,
)
from charladder.training.schedule import compute_progress


def find_run_to_resume(options: Namespace) -> Path | None:
    """The run to resume: that of --resume, or that which this job created before torchrun restarted it; else None."""
    if options.resume is not None:
        return Path(options.resume)
    if restart_counts()[1] and (options.run is None or job_name() is None):
        raise UserError(
            "torchrun may restart this job, which must then find its run; give --run-dir DIR, and torchrun "
            "--standalone or --rdzv-id NAME (or --max-restarts 0)"
        )
    if options.run is None or job_name() is None:
        return None
    path = Path(options.run)
    return path if on_rank_zero(lambda: read_environment_text(path, "job") == job_name()) else None


def _check_same_job(run: Run, options: Namespace) -> Run:
    """Returns the run. Raises UserError if the options differ from its recipe, because another job created it."""
    _remove_automatic_batch(options)
    requested = resolve({**_requested_fields(options)[0], "text.characters": run.recipe.text.characters})
    same = requested.model == run.recipe.model and requested.objective == run.recipe.objective
    training = dataclasses.replace(requested.training, micro_batch=run.recipe.training.micro_batch)
    if not (same and training == run.recipe.training):
        raise run_exists_error(run.path)
    return run


def start_run(options: Namespace) -> tuple[Run, Corpus, Trainer]:
    """Creates a run directory, its data and its trainer, after all checks."""
    find_batch = _remove_automatic_batch(options)
    fields, source = _requested_fields(options)
    if options.extend:
        raise UserError("--extend changes the budget of a run that exists; give it with --resume RUN")
    if options.moved:
        raise UserError("--data is where the text of a run is now, and needs --resume RUN; give a new text as DATA")
    if options.data:
        fields["text.data"] = tuple(options.data)
    recipe = resolve(fields)
    path = next_run_path(recipe.recipe) if options.run is None else Path(options.run)
    if options.run is not None and on_rank_zero(lambda: os.path.lexists(path)):
        raise run_exists_error(path)
    text = recipe.text
    if world_size() > 1 and STDIN in text.data:
        raise UserError("standard input can be read by one process only, and there are several; save it as a file")
    alphabet = text.alphabet if source is None else source.alphabet
    corpus = _read_text_in_turn(lambda report: open_corpus(text.data, alphabet, text.encoding, text.unknown, report))
    fields["text.characters"] = len(corpus.ids_N)
    unsized, recipe = recipe, resolve(fields)
    chosen = [
        f"{name} = {value:g}" for name, value in shape_fields(recipe).items() if shape_fields(unsized)[name] != value
    ]
    run = plan_run(path, recipe, corpus)
    device = choose_device(recipe.training.device)
    if find_batch:
        run = fit_micro_batch(run, device)
    check_memory(run.recipe, device)
    trainer = new_trainer(run, corpus, _print_note_once)
    run = _create_directory(run, corpus, numbered=options.run is None)
    if chosen:
        _print_note_once(
            f"this text has fewer than {SMALL_TEXT_CHARACTERS:,} training characters, read {MIN_EPOCHS} times or more, "
            f"so fields that are not set have the values for small texts: {', '.join(chosen)}"
        )
    return run, corpus, trainer


def _requested_fields(options: Namespace) -> tuple[RecipeFields, Run | None]:
    """The recipe fields of a new run, and the run of --from or None."""
    if options.source is not None:
        return read_initial_fields(options)
    if options.weights != "last":
        raise UserError("--weights chooses the weights of the run of --from, which is not given; leave it out")
    return {**read_recipe_fields(options), "training.initial_run": "", "training.initial_sha256": ""}, None


def _create_directory(run: Run, corpus: Corpus, numbered: bool) -> Run:
    """Creates the directory of a new run; numbered: with the first number that is free now."""
    if not numbered:
        on_rank_zero(lambda: create_run(run, corpus))
        return run
    return dataclasses.replace(run, path=Path(on_rank_zero(lambda: str(create_numbered_run(run, corpus).path))))


def _remove_automatic_batch(options: Namespace) -> bool:
    """Whether --batch auto is given; removes it, so that the batch is the recipe's."""
    is_automatic = vars(options).get("training.batch") == "auto"
    if is_automatic:
        delattr(options, "training.batch")
    return is_automatic


def _print_note_once(sentence: str) -> None:
    if is_rank_zero():
        print_note(sentence)


def _read_text_in_turn(read: Callable[[ProgressCallback], Corpus]) -> Corpus:
    """Reads a text, first in one process of each machine, which converts it; the others then read the cache."""
    if local_rank() != 0:
        barrier()
        return read(no_progress)
    with reading_progress() as report:
        corpus = read(report)
    if is_rank_zero():
        print_text_notes(corpus)
    barrier()
    return corpus


_EXTENDABLE_FIELDS = BUDGET_FIELDS | {"training.patience"}


def resume_run(options: Namespace, path: Path) -> tuple[Run, Corpus, Trainer]:
    """Opens a run and its text, which must be unchanged. Only --extend may change the budget or the patience."""
    run = open_run(path)
    if options.resume is None:  # torchrun has restarted the job, with its first options
        return _resume_from_checkpoint(_check_same_job(run, options), (), {})
    given = given_fields(options)
    if options.source is not None or options.weights != "last":
        raise UserError("--from and --weights are for a new run, and --resume continues one; leave them out")
    if options.run is not None or options.recipe is not None or options.data:
        raise UserError(
            "--resume takes the recipe and the data from the run; leave out --run, --recipe and DATA (--data PATH is "
            "for a text that has moved)"
        )
    if set(given) - _EXTENDABLE_FIELDS or (given and not options.extend):
        name = min(set(given) - _EXTENDABLE_FIELDS or given)
        raise UserError(
            f"--resume takes everything from {run.path}, and {name} is given; leave it out, or start a new run"
            + (" (a changed budget needs --extend)" if set(given) <= _EXTENDABLE_FIELDS else "")
        )
    if given:
        others = dict.fromkeys(BUDGET_FIELDS, 0) if BUDGET_FIELDS & set(given) else {}
        fields = {name.split(".")[1]: value for name, value in (others | given).items()}
        training = dataclasses.replace(run.recipe.training, **fields)
        restarted = on_rank_zero(lambda: restart_counts()[0] > 0 and training == run.recipe.training)
        given = {} if restarted else given  # changed before the restart
        recipe, before = dataclasses.replace(run.recipe, training=training), run.recipe.training
        run = dataclasses.replace(run, recipe=recipe)
        return _resume_from_checkpoint(run, options.moved, given, before)
    return _resume_from_checkpoint(run, options.moved, given)


def _resume_from_checkpoint(
    run: Run, moved: Sequence[str], given: dict[str, Any], old_settings: TrainingConfig | None = None
) -> tuple[Run, Corpus, Trainer]:
    """A run at its newest checkpoint. moved: where its text is now. given: a new budget or patience.
    old_settings: the settings before it."""
    corpus = _read_text_in_turn(lambda report: open_data(run, report, moved))
    check_memory(run.recipe, choose_device(run.recipe.training.device))
    trainer = make_trainer(run, corpus, _print_note_once)
    if given:
        if trainer.progress >= 1:
            spent = [f" of {name} {amount:g}" for name, amount in given.items() if name in BUDGET_FIELDS]
            advice = "" if old_settings is None or compute_progress(old_settings, trainer.counters) >= 1 else (
                f", or leave out --extend: charladder train --resume {run.command_arguments} continues to its "
                "present budget"
            )  # fmt: skip
            raise UserError(
                f"{run.path} has spent {'a' if spent else 'its'} budget{''.join(spent)} already; give a larger "
                f"one{advice}"
            )
        patience = run.recipe.training.patience
        if on_rank_zero(lambda: ended_early(run.path, run.recipe.training)):
            raise UserError(
                f"{run.path} would end at once, because at least {patience} validations in a row were no better than "
                "the best one; give a larger --patience with --extend, or --patience 0 to train for the whole budget"
            )
        on_rank_zero(lambda: write_config(run))
        if old_settings is not None and (sentence := describe_budget_change(trainer, old_settings)) is not None:
            _print_note_once(sentence)
    return run, corpus, trainer
