"""Construction of the trainer of a run: new, restored from a checkpoint, or with the weights of another run."""

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
    """The trainer of a run, restored from its newest intact checkpoint, or new if the run has not been trained yet.

    Calls `report` with a sentence for each damaged checkpoint. Raises UserError if all checkpoints are damaged, if one
    does not fit, and if a trained run has none, because training from the first step would overwrite its weights.
    """
    checkpoint = load_newest(run.path / "checkpoints", report, run.identity)
    step = -1 if checkpoint is None else checkpoint.state["clock"]["step"]
    if distributed.broadcast_and_any(0.0, step != distributed.broadcast_and_any(step)[0])[1]:
        raise UserError(
            f"the processes read different checkpoints in {run.path}; put it on storage that all machines share"
        )
    if checkpoint is not None:
        distributed.on_rank_zero(lambda: _check_best_weights(run))
        trainer = build_trainer(run, corpus, *new_modules(run))
        trainer.restore(checkpoint)
        return trainer
    weight_file = distributed.on_rank_zero(lambda: _find_weight_file(run))
    if weight_file is not None:
        raise UserError(
            f"{run.path} has {weight_file} but no checkpoint, so training would begin again at step 1 and "
            f"overwrite it; restore {run.path / 'checkpoints'}, or start a new run ({run.path} can still be evaluated)"
        )
    if (run.path / "metrics.jsonl").exists():
        report(f"{run.path} ended before its first checkpoint, so its training begins again at step 1")
    return new_trainer(run, corpus, report)


def _check_best_weights(run: Run) -> None:
    """Raises UserError if the best weights, which a resumed run retains, are damaged or of another run."""
    best = replace(run, weights="best")
    try:
        if best.network_path.exists():
            best.load_network()
        if best.heads_path.exists():
            best.stored_objective()
    except UserError as error:
        raise UserError(
            f"{error}; or remove {BEST_NETWORK_FILE} and {BEST_HEADS_FILE}, and the best weights are chosen from this "
            "checkpoint on"
        ) from None


def _find_weight_file(run: Run) -> str | None:
    """The name of a weight file that training from the first step would overwrite; None if there is none.

    If the folder of checkpoints exists, which is created with the run, no checkpoint was saved yet. Best weights are
    then from before the first checkpoint, and may be overwritten.
    """
    has_folder = (run.path / "checkpoints").is_dir()
    names = _WEIGHT_FILES if has_folder else (*_WEIGHT_FILES, BEST_NETWORK_FILE)
    return next((name for name in names if (run.path / name).exists()), None)


def new_trainer(run: Run, corpus: Corpus, report: Report = lambda sentence: None) -> Trainer:
    """The trainer of a run at its first step. Reads nothing from the directory of the run.

    If the recipe names another run (training.initial_run), the weights are loaded from it, and `report` is called with
    a sentence about heads that it does not have. Raises UserError if that run is missing or its weights have changed.
    """
    network, objective = new_modules(run)
    if run.recipe.training.initial_run:
        new_heads = _load_initial_weights(run.recipe, network, objective)
        if new_heads:
            names = ", ".join(new_heads)
            report(f"{run.recipe.training.initial_run} does not have these heads, so they are initialised: {names}")
    return build_trainer(run, corpus, network, objective)


def new_modules(run: Run) -> tuple[Transformer, LanguageModelObjective]:
    """The initialised network and objective of a run."""
    recipe = run.recipe
    network = Transformer(recipe.model, run.alphabet.size, recipe.training.seed)
    return network, new_objective(recipe, run.alphabet)


def build_trainer(run: Run, corpus: Corpus, network: Transformer, objective: LanguageModelObjective) -> Trainer:
    """The trainer of these modules. If a rank cannot use the C kernels, no rank uses them, so all compute alike."""
    retain_freed_memory()
    reason = build.decision().reason
    if distributed.broadcast_and_any(0.0, reason is not None)[1] and reason is None:
        build.disable("another process of this job cannot use C")
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
    """The SHA-256 of the network of a run, for training.initial_sha256. Raises UserError if it cannot be loaded."""
    run.load_network()
    return file_digest(run.network_path)


def _open_initial_run(recipe: Recipe) -> Run:
    """The run that `recipe` starts from, with the weights of training.initial_sha256. Raises UserError if it does not
    have them any more."""
    run, sha256 = open_run(Path(recipe.training.initial_run)), recipe.training.initial_sha256
    for candidate in (run, replace(run, weights="best")):
        if candidate.network_path.is_file() and file_digest(candidate.network_path) == sha256:
            return candidate
    raise UserError(
        f"{run.path} no longer has the weights that this run began from (training.initial_sha256 in config.toml): "
        f"neither {run.network_path.name} nor {BEST_NETWORK_FILE} is that file; restore it, or start a new run"
    )


def _load_initial_weights(recipe: Recipe, network: Transformer, objective: LanguageModelObjective) -> list[str]:
    """Loads the network of training.initial_run, and those of its heads whose names, shapes and dtypes match heads of
    `objective`. Returns the names of the other heads of `objective`, which are not changed.

    Raises UserError if that run is missing, or does not have the weights of training.initial_sha256.
    """
    run = _open_initial_run(recipe)
    network.load_state_dict(run.load_network().state_dict())
    state, path = objective.state_dict(), run.heads_path
    try:
        tensors = load_tensors(path, run.identity) if path.is_file() else {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None
    matching = {
        name: tensor
        for name, tensor in tensors.items()
        if name in state and (state[name].shape, state[name].dtype) == (tensor.shape, tensor.dtype)
    }
    objective.load_state_dict({**state, **matching})
    return sorted({name.split(".")[1].replace("_", ".") for name in state if name not in matching})
