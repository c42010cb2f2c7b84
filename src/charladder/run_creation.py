"""Creation of run directories: their name, config.toml and environment.json."""

import dataclasses
import errno
import glob
import json
import os
import platform
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w

from charladder.atomic_io import fsync_folder, write_text
from charladder.environment import describe_corpus, describe_environment
from charladder.errors import UserError
from charladder.recipe import Recipe, recipe_tables
from charladder.run import Run, check_path_encoding
from charladder.run_config import config_tables
from charladder.shell_words import quote_path
from charladder.text import Corpus
from charladder.training import distributed
from charladder.training.identity import new_identity


def next_run_path(recipe: str) -> Path:
    """The first free `runs/<recipe>-<n>`. Another process may create it before this one does."""
    number = 1
    while os.path.lexists(path := Path("runs") / f"{recipe}-{number}"):
        number += 1
    return path


def plan_run(path: Path, recipe: Recipe, corpus: Corpus) -> Run:
    """The run of `recipe` on `corpus`, with a new identity. Creates no files. All ranks call it."""
    text = dataclasses.replace(
        recipe.text,
        data=corpus.names,
        characters=len(corpus.ids_N),
        sha256=corpus.sha256,
        files=len(corpus.ends_F),
        letters=corpus.alphabet.letters,
    )
    identity = distributed.on_rank_zero(new_identity)
    return Run(path, dataclasses.replace(recipe, text=text), identity=identity)


class RunExists(UserError):
    """The path of a new run already exists."""


def create_numbered_run(run: Run, corpus: Corpus) -> Run:
    """As create_run, at the first free `runs/<recipe>-<n>`; returns the created run.

    Processes that call it at the same time get different directories.
    """
    return _number(run, lambda numbered: create_run(numbered, corpus))


def _number(run: Run, create: Callable[[Run], None]) -> Run:
    """Calls `create` with the run at the first free `runs/<recipe>-<n>`, until that is not taken by another process;
    returns the created run."""
    while True:
        numbered = dataclasses.replace(run, path=next_run_path(run.recipe.recipe))
        try:
            create(numbered)
        except RunExists:
            continue
        return numbered


def create_run(run: Run, corpus: Corpus) -> None:
    """Creates the directory of a planned run, with config.toml and environment.json. Raises RunExists if it exists, and
    UserError if it cannot be created or its name is not UTF-8."""
    check_path_encoding(run.path)
    try:
        tomli_w.dumps(recipe_tables(run.recipe)).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the name {corpus.name!r} is not UTF-8, and config.toml must contain it; rename the file"
        ) from None
    _create_directory(run, describe_corpus(corpus))


def create_imported_run(
    run: Run, source: dict[str, Any], write_weights: Callable[[Path], None], numbered: bool = False
) -> Run:
    """Creates the directory of a run whose weights another program has trained, and returns the run.

    source: where the weights come from, for environment.json. write_weights: writes the files of the weights into the
    folder that it is given. numbered: at the first free `runs/<recipe>-<n>`. Raises as create_run.
    """

    def create(created: Run) -> None:
        check_path_encoding(created.path)
        _create_directory(created, source, write_weights)

    if numbered:
        return _number(run, create)
    try:
        create(run)
    except RunExists:  # without the advice of run_exists_error: an imported run cannot be resumed
        raise RunExists(
            f"{run.path} exists and a run is never overwritten", field="run", rule="choose another path"
        ) from None
    return run


def _create_directory(run: Run, data: dict[str, Any], write_weights: Callable[[Path], None] | None = None) -> None:
    """Creates a run directory. data: of environment.json. write_weights: writes more files into the folder."""
    try:
        if os.path.lexists(run.path):
            raise run_exists_error(run.path)
        temporary = make_temporary_folder(run.path)
    except OSError as error:
        raise UserError(f"the run directory {run.path} cannot be made: {error.strerror}") from None
    try:
        (temporary / "checkpoints").mkdir()
        write_config(dataclasses.replace(run, path=temporary))
        write_text(
            temporary / "environment.json",
            json.dumps(describe_environment(run.recipe, run.identity, data), indent=2) + "\n",
        )
        if write_weights is not None:
            write_weights(temporary)
        temporary.rename(run.path)  # atomic, so a crash leaves no partial run directory
        fsync_folder(run.path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise run_exists_error(run.path) from None
        if isinstance(error, OSError):
            raise UserError(f"the run directory {run.path} cannot be written: {error.strerror or error}") from None
        raise


def run_exists_error(path: Path) -> RunExists:
    name = quote_path(path)
    return RunExists(
        f"{path} exists and a run is never overwritten; "
        f"choose another path, or resume it: charladder train --resume {name}"
    )


def make_temporary_folder(path: Path) -> Path:
    """Creates a temporary folder beside `path` for this process. Removes those of processes that have ended.

    A folder with the process id of this process is from an earlier process with the same id; in a container the id is
    often 1.
    """
    host = re.sub(r"\W", "", platform.node())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{host}-{os.getpid()}.part")
    for old in path.parent.glob(f".{glob.escape(path.name)}.{host}-*.part"):
        process_id = old.name.removesuffix(".part").rpartition("-")[2]
        has_ended = process_id.isdecimal() and Path("/proc/self").exists() and not Path(f"/proc/{process_id}").exists()
        if old == temporary or has_ended:
            shutil.rmtree(old, ignore_errors=True)
    temporary.mkdir()
    return temporary


def write_config(run: Run) -> None:
    write_text(run.path / "config.toml", tomli_w.dumps(config_tables(run.recipe, run.identity)))
