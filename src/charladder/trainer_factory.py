"""Trainers of runs: new ones, restored from the newest checkpoint, or initialised from another run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError

from charladder.errors import UserError
from charladder.kernels import build
from charladder.model import Transformer
from charladder.objective import LanguageModelObjective
from charladder.recipe import Recipe
from charladder.run import Run, file_ends, new_objective, open_run, split_corpus
from charladder.text import Corpus, Windows
from charladder.training import Trainer, distributed, load_newest
from charladder.training.best_weights import BEST_HEADS_FILE, BEST_NETWORK_FILE
from charladder.training.memory import retain_freed_memory
from charladder.training.tensor_files import file_digest, load_tensors

_WEIGHT_FILES = "model.safetensors", "heads.safetensors", "drafting.safetensors"  # written after the first checkpoint
Report = Callable[[str], None]


def make_trainer(run: Run, corpus: Corpus, report: Report = lambda sentence: None) -> Trainer:
    """Everything a run trains with, at its newest whole checkpoint, or at its start where it has not been trained yet.

    `report` hears of checkpoints that are not whole. Raises UserError where there are only such, where one does
    not fit, and where a trained run has none: training from the first step would overwrite its weights.
    """
    checkpoint = load_newest(run.path / "checkpoints", report, run.identity)
    own = -1 if checkpoint is None else checkpoint.state["clock"]["step"]
    if distributed.broadcast_and_any(0.0, own != distributed.broadcast_and_any(own)[0])[1]:
        raise UserError(
            f"the processes do not see the same checkpoints in {run.path}; put it on storage that all machines share"
        )
    if checkpoint is not None:
        distributed.on_rank_zero(lambda: _check_best_weights(run))
        trainer = build_trainer(run, corpus, *new_modules(run))
        trainer.restore(checkpoint)
        return trainer
    found = distributed.on_rank_zero(lambda: _find_weight_file(run))
    if found is not None:
        raise UserError(
            f"{run.path} has {found} but no checkpoint, so training would begin again at step 1 and overwrite it; put "
            f"{run.path / 'checkpoints'} back, or start a new run (what {run.path} has can still be evaluated)"
        )
    if (run.path / "metrics.jsonl").exists():
        report(f"{run.path} ended before its first checkpoint, so its training begins again at step 1")
    return new_trainer(run, corpus, report)


def _check_best_weights(run: Run) -> None:
    """Raises UserError where the best weights, which a run that goes on keeps until there are better ones, are damaged
    or of another run."""
    chosen = replace(run, weights="best")
    try:
        if chosen.network_path.exists():
            chosen.load_network()
        if chosen.heads_path.exists():
            chosen.stored_objective()
    except UserError as error:
        raise UserError(
            f"{error}; or remove {BEST_NETWORK_FILE} and {BEST_HEADS_FILE}, and the best weights are chosen from those "
            "of this step on"
        ) from None


def _find_weight_file(run: Run) -> str | None:
    """The name of a file with weights that training from the first step would overwrite; None where there is none.

    The best weights may be older than the first checkpoint. They are then those of a start that was abandoned: the
    folder of checkpoints, which is made with the run, is there and empty.
    """
    never_saved = (run.path / "checkpoints").is_dir()
    names = _WEIGHT_FILES if never_saved else (*_WEIGHT_FILES, BEST_NETWORK_FILE)
    return next((name for name in names if (run.path / name).exists()), None)


def new_trainer(run: Run, corpus: Corpus, report: Report = lambda sentence: None) -> Trainer:
    """Everything a run trains with, at its start. Nothing is read from the run's directory.

    Where the recipe names another run to begin from (training.initial_run), the weights are those; `report` hears which
    heads that run does not have. Raises UserError where that run is gone or another.
    """
    network, objective = new_modules(run)
    if run.recipe.training.initial_run:
        fresh = _load_initial_weights(run.recipe, network, objective)
        if fresh:
            report(f"{run.recipe.training.initial_run} has no such heads, and these begin fresh: {', '.join(fresh)}")
    return build_trainer(run, corpus, network, objective)


def new_modules(run: Run) -> tuple[Transformer, LanguageModelObjective]:
    recipe = run.recipe
    network = Transformer(recipe.model, run.alphabet.size, recipe.training.seed)
    return network, new_objective(recipe, run.alphabet)


def build_trainer(run: Run, corpus: Corpus, network: Transformer, objective: LanguageModelObjective) -> Trainer:
    retain_freed_memory()
    missing = build.decision().reason
    if distributed.broadcast_and_any(0.0, missing is not None)[1] and missing is None:
        build.disable("another process of this job cannot use C")  # the ranks compute their steps alike
    recipe = run.recipe
    windows = Windows(
        corpus.ids_N,
        split_corpus(recipe, corpus).train,
        recipe.model.context,
        recipe.objective.targets,
        recipe.training.seed,
        recipe.text.order,
        file_ends(recipe, corpus),
    )
    return Trainer(network, objective, windows, recipe.training, run.identity)


def network_digest(run: Run) -> str:
    """The SHA-256 of the weights that another run may begin with. Raises UserError where there are none."""
    run.load_network()
    return file_digest(run.network_path)


def _open_initial_run(recipe: Recipe) -> Run:
    """The run that `recipe` begins from, with the weights that were taken. Raises UserError where it does not have them
    any more."""
    run, sha256 = open_run(Path(recipe.training.initial_run)), recipe.training.initial_sha256
    for chosen in (run, replace(run, weights="best")):
        if chosen.network_path.is_file() and file_digest(chosen.network_path) == sha256:
            return chosen
    raise UserError(
        f"{run.path} no longer has the weights that this run began from (training.initial_sha256 in config.toml): "
        f"neither {run.network_path.name} nor {BEST_NETWORK_FILE} is that file; put it back, or start a new run"
    )


def _load_initial_weights(recipe: Recipe, network: Transformer, objective: LanguageModelObjective) -> list[str]:
    """Loads the network of the run that `recipe` begins from, and those of its heads that have the names, shapes and
    dtypes of heads of `objective`; returns the names of the other heads of `objective`, which stay fresh.

    Raises UserError where that run is gone, or its weights are not those that `recipe` began from.
    """
    run = _open_initial_run(recipe)
    network.load_state_dict(run.load_network().state_dict())
    own, path = objective.state_dict(), run.heads_path
    try:
        found = load_tensors(path, run.identity) if path.is_file() else {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None
    fitting = {
        name: tensor
        for name, tensor in found.items()
        if name in own and (own[name].shape, own[name].dtype) == (tensor.shape, tensor.dtype)
    }
    objective.load_state_dict({**own, **fitting})
    return sorted({name.split(".")[1].replace("_", ".") for name in own if name not in fitting})
