"""Run directories: opened runs, their weights and texts, and the lock of the training process."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from charladder.environment import read_environment_entry, read_environment_text
from charladder.errors import UserError, closest_name
from charladder.input_files import parse_toml, read_bytes
from charladder.model import Transformer
from charladder.objective import LanguageModelObjective
from charladder.recipe import Recipe, fields_from_tables, resolve
from charladder.run_config import verify_identity
from charladder.shell_words import quote_path
from charladder.text import (
    Alphabet,
    Corpus,
    DataNotOpened,
    ProgressCallback,
    Split,
    no_progress,
    open_corpus,
    open_recorded_corpus,
    split,
)
from charladder.training import best_weights, distributed
from charladder.training.identity import RUN_KEY, check_identity
from charladder.training.memory import check_context_memory
from charladder.training.metrics import is_validation, read_metrics
from charladder.training.tensor_files import load_tensors

_FILES_OF_A_RUN = (
    "config.toml", "environment.json", "metrics.jsonl", "checkpoints", "model.safetensors", "heads.safetensors",
    "best.safetensors", "best_heads.safetensors", "drafting.safetensors", "curves.png", ".lock",
    "tracking.json", "tracking.log", ".tracking.lock",
)  # fmt: skip
Weights = Literal["last", "best"]
_Module = TypeVar("_Module", bound=torch.nn.Module)


@dataclass(frozen=True)
class Run:
    """An opened run directory: its path and its recipe.

    weights: which weights are read: the `last` ones, or the `best` by the validations, if they have a separate file.
    identity: the random id in the files of the run; None if config.toml has none, and then files are not checked.
    """

    path: Path
    recipe: Recipe
    weights: Weights = "last"
    identity: str | None = None

    @property
    def alphabet(self) -> Alphabet:
        return Alphabet(self.recipe.text.letters)

    @property
    def has_text(self) -> bool:
        """Whether the run was trained on a text; not if its network was imported."""
        return bool(self.recipe.text.sha256)

    @property
    def network_path(self) -> Path:
        """The file of the network's weights."""
        return self.path / ("model.safetensors" if self.weights == "last" else best_weights.BEST_NETWORK_FILE)

    @property
    def heads_path(self) -> Path:
        """The file of the auxiliary heads' weights."""
        return self.path / ("heads.safetensors" if self.weights == "last" else best_weights.BEST_HEADS_FILE)

    @property
    def command_arguments(self) -> str:
        """This run and these weights as the arguments of a command."""
        return quote_path(self.path) + (" --weights best" if self.weights == "best" else "")

    @property
    def best_step(self) -> int | None:
        """The step after which the best weights were saved; None for the last weights."""
        best = best_weights.read_best(self.network_path) if self.weights == "best" else None
        return None if best is None else best.step

    def load_network(self) -> Transformer:
        """The network in evaluation mode. Raises UserError if its file is missing or does not fit, or if one sequence
        of its context does not fit into the free memory."""
        check_context_memory(self.recipe.model, str(self.path))
        model, size = self.recipe.model, self.alphabet.size
        return load_module(lambda: Transformer(model, size), self.network_path, model.layers, self.identity).eval()

    def load_objective(self) -> LanguageModelObjective:
        """The objective with its trained heads. Raises UserError if their file is missing or does not fit, or if the
        best heads are of another step than the best network."""
        objective = self.stored_objective()
        if self.weights == "best" and best_weights.read_best(self.heads_path) != best_weights.read_best(
            self.network_path
        ):
            raise UserError(
                f"{self.heads_path} is of another step than {self.network_path}, because the run was interrupted "
                f"between them; continue with charladder train --resume {quote_path(self.path)}, or use its last "
                "weights",
                field="weights",
            )
        return objective

    def stored_objective(self) -> LanguageModelObjective:
        """As load_objective, but the best heads may be of another step than the best network."""
        recipe = self.recipe
        heads = LanguageModelObjective.count_heads(recipe.objective, recipe.model.layers)
        return load_module(lambda: new_objective(recipe, self.alphabet), self.heads_path, heads, self.identity)


def load_module(make: Callable[[], _Module], path: Path, min_tensors: int, identity: str | None = None) -> _Module:
    """The module that `make` returns, with the tensors of the file `path`. min_tensors: a lower bound of their number.

    Raises UserError that names the file if it is missing, damaged, of another run than `identity`, or has other names,
    shapes or dtypes or numbers that are not finite. Files are untrusted, so names and shapes are compared before memory
    is allocated.
    """
    try:
        path.open("rb").close()  # because safe_open reports a missing permission as a missing file
        with safe_open(path, framework="pt") as opened:
            check_identity(path, (opened.metadata() or {}).get(RUN_KEY), path.parent, identity)
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        fits = len(shapes) >= min_tensors
        if fits:
            with torch.device("meta"):
                fits = shapes == {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
        if fits:
            tensors, module = load_tensors(path), make()
            dtypes = {name: tensor.dtype for name, tensor in module.state_dict().items()}
            wrong = next((name for name in tensors if tensors[name].dtype != dtypes[name]), None)
            if wrong is not None:
                raise UserError(f"{path} has {wrong} as {tensors[wrong].dtype}; it must be {dtypes[wrong]}")
            module.load_state_dict(tensors)
            return module
    except FileNotFoundError:
        has_best = path.name == "model.safetensors" and path.with_name(best_weights.BEST_NETWORK_FILE).exists()
        alternative = ", or use its best weights" if has_best else ""
        raise UserError(
            f"{path} is not there yet; train the run until its first checkpoint{alternative}",
            field="weights" if has_best else None,
        ) from None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None
    raise UserError(f"{path} does not fit the network that {path.parent / 'config.toml'} describes")


def new_objective(recipe: Recipe, alphabet: Alphabet) -> LanguageModelObjective:
    return LanguageModelObjective(recipe.objective, recipe.model, alphabet.size, recipe.training.seed)


def check_path_encoding(path: Path) -> None:
    """Raises UserError if the name of a run directory is not UTF-8, because safetensors cannot open files in it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"the name of the run directory {str(path)!r} is not UTF-8; give it another name") from None


@contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Holds the lock of a run, which one process at a time trains. Raises UserError if another process holds it."""
    if not (path / "config.toml").is_file() or not distributed.is_rank_zero():
        yield  # open_run reports a missing run; rank 0 locks for all ranks of a job
        return
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{path} is being trained by another process; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def open_run(path: Path, weights: Weights = "last") -> Run:
    """Opens a run directory. Raises UserError if `path` is not one, or has no weights of the kind `weights`."""
    check_path_encoding(path)
    config = path / "config.toml"
    if path.is_file():
        raise UserError(f"{path} is a file; give the run directory that `charladder train` created")
    if not path.is_dir():
        raise _no_run(path)
    if not config.is_file():
        raise UserError(f"{path} is not a run directory, because it has no config.toml")
    for name in _FILES_OF_A_RUN:
        file = path / name
        is_folder = name == "checkpoints"
        if file.is_symlink() or (file.exists() and not (file.is_dir() if is_folder else file.is_file())):
            raise UserError(f"{file} is not a regular {'folder' if is_folder else 'file'}, and is not opened")
    try:
        tables = parse_toml(read_bytes(config), str(config))
    except OSError as error:
        raise UserError(f"{config} cannot be read: {error.strerror}") from None
    recipe = resolve(fields_from_tables(tables, str(config)))
    identity = verify_identity(config, tables, read_environment_entry(path, "config"))
    check_identity(path / "environment.json", read_environment_text(path, "run"), path, identity)
    return _select_weights(Run(path, recipe, identity=identity), weights)


def _no_run(path: Path) -> UserError:
    """The error for a path where nothing is: it names the run with the most similar name, if there is one."""
    runs = {run.name: run for folder in (Path("runs"), path.parent) for run in _runs_in(folder)}
    nearest = closest_name(path.name, runs)
    if nearest is not None:
        return UserError(f"there is no run directory {path}; did you mean {quote_path(runs[nearest])}?")
    return UserError(f"there is no run directory {path}; `charladder train --run {quote_path(path)}` creates one")


def _runs_in(folder: Path) -> list[Path]:
    """The run directories in a folder; none where the folder cannot be read."""
    try:
        return [config.parent for config in folder.glob("*/config.toml")]
    except (OSError, ValueError):  # a null byte in the path is a ValueError
        return []


def _select_weights(run: Run, weights: Weights) -> Run:
    """The run with the weights `weights`. If there is no separate file of the best weights, the last weights are the
    best. Raises UserError for the best weights of a run that has no validation with a finite score."""
    if weights == "last" or (run.path / best_weights.BEST_NETWORK_FILE).exists():
        return dataclasses.replace(run, weights=weights)
    metrics = run.path / "metrics.jsonl"
    lines = read_metrics(metrics) if metrics.is_file() else []
    if not any(is_validation(line) and math.isfinite(line["bits_per_character"]) for line in lines):
        raise UserError(
            f"{run.path} has no best weights, because it was never validated", field="weights", rule="use last"
        )
    return run


def open_data(run: Run, report: ProgressCallback = no_progress, data: Sequence[str] = ()) -> Corpus:
    """The text that a run was trained on, verified by its SHA-256: from `data` if given, else from the cache or from
    the data that config.toml names. Raises UserError if the text is not found or has changed, or if config.toml names
    data that is not trusted (see `charladder.text.trusted_data`), and for an imported run, which has no text."""
    text, advice = run.recipe.text, "give its path"
    if not run.has_text:
        raise UserError(
            f"{run.path} has no text, because its network was imported; `charladder evaluate` takes another text as "
            f"DATA, and `charladder train DATA --from {quote_path(run.path)}` starts a run that has one"
        )
    if data:
        corpus = open_corpus(data, run.alphabet, text.encoding, text.unknown, report)
    else:
        size = None if text.letters else text.characters
        try:
            corpus = open_recorded_corpus(
                text.data, run.alphabet, text.encoding, text.unknown, text.sha256, text.files, size,
                str(run.path), report,
            )  # fmt: skip
        except DataNotOpened as error:
            raise UserError(
                f"{error}; if you trust what {run.path} names, give it as the data, else {advice}", field="data"
            ) from None
        except UserError as error:
            raise UserError(f"{error}; if the text of {run.path} has moved, {advice}", field="data") from None
    if corpus.sha256 != text.sha256:
        digests = f"(SHA-256 {corpus.sha256[:12]} now, {text.sha256[:12]} then)"
        if data:
            raise UserError(
                f"{corpus.name} is not the text that {run.path} was trained on {digests}",
                field="data",
                rule="give that",
            )
        raise UserError(
            f"{corpus.name} has changed since {run.path} began {digests}, and the cache has no copy of the old text; "
            f"{advice}, or restore it"
        )
    if text.boundaries == "keep" and len(corpus.ends_F) != text.files:
        raise UserError(
            f"{corpus.name} has {len(corpus.ends_F)} files now and had {text.files} when {run.path} began, and windows "
            "do not cross files; restore the old files, or give their path",
            field="data",
        )
    return corpus


def file_ends(recipe: Recipe, corpus: Corpus) -> np.ndarray | None:
    """The ends of the files of a text, in characters, shape (files,); None if windows may cross files."""
    return corpus.ends_F if recipe.text.boundaries == "keep" else None


def split_corpus(recipe: Recipe, corpus: Corpus) -> Split:
    return split(len(corpus.ids_N), recipe.text.valid, recipe.text.test)
