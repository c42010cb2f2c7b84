"""The optimizers of a run, and their state as named tensors."""

import torch
from torch import Tensor, nn

from charladder.training.config import TrainingConfig
from charladder.training.distributed import distribute_like
from charladder.training.muon import Muon
from charladder.training.sparse_gradients import sparse_parameters


def make_optimizers(
    settings: TrainingConfig, network: nn.Module, heads: nn.Module, precision: torch.dtype
) -> list[torch.optim.Optimizer]:
    """The optimizers of the network and the heads.

    Muon updates the matrices of the layers only, those of chained targets included; AdamW updates embeddings, position
    tables, classifiers and vectors.
    """
    parameters = dict(named_parameters(network, heads))
    sparse = sparse_parameters(network)
    if not sparse:
        return _make_dense_optimizers(settings, parameters, precision)
    # Adagrad updates only the rows in the gradient; the running means of Adam would change all rows
    torch.sparse.check_sparse_tensor_invariants.disable()  # torch warns unless this is set explicitly
    ids = {id(parameter) for parameter in sparse}
    dense = {name: parameter for name, parameter in parameters.items() if id(parameter) not in ids}
    return [*_make_dense_optimizers(settings, dense, precision), torch.optim.Adagrad(sparse, settings.ngram_rate)]


def _make_dense_optimizers(
    settings: TrainingConfig, parameters: dict[str, nn.Parameter], precision: torch.dtype
) -> list[torch.optim.Optimizer]:
    on_gpu = all(parameter.is_cuda for parameter in parameters.values())
    if settings.optimizer == "momentum":
        return [
            torch.optim.SGD(
                parameters.values(),
                lr=settings.learning_rate,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                fused=on_gpu or None,  # on a CPU torch's default, which the golden curves of the tests were made with
            )
        ]
    matrices = {n: p for n, p in parameters.items() if _is_in_layer(n) and p.ndim == 2}
    use_muon = settings.optimizer == "muon"
    adam = torch.optim.AdamW(
        [p for n, p in parameters.items() if not (use_muon and n in matrices)],
        lr=settings.adam_rate if use_muon else settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    if not use_muon:
        return [adam]
    dtype = precision if precision == torch.bfloat16 else None
    return [Muon(matrices.values(), settings.learning_rate, settings.momentum, settings.weight_decay, dtype), adam]


def _is_in_layer(name: str) -> bool:
    """Whether a parameter belongs to a layer of the network or to a chained module (objective/chained_targets.py)."""
    return name.startswith("network.blocks.") or ".block." in name or ".projection." in name


_STATE_NAMES = {
    Muon: {"momentum"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.Adagrad: {"step", "sum"},
}


def named_parameters(network: nn.Module, heads: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Every trained parameter with its name, prefixed with `network.` or `heads.`."""
    return [
        *((f"network.{name}", parameter) for name, parameter in network.named_parameters()),
        *((f"heads.{name}", parameter) for name, parameter in heads.named_parameters()),
    ]


def optimizer_tensors(
    optimizers: list[torch.optim.Optimizer], network: nn.Module, heads: nn.Module
) -> dict[str, Tensor]:
    """All optimizer state as `<parameter>/<state>` tensors."""
    return {
        f"{name}/{key}": value
        for name, parameter in named_parameters(network, heads)
        for optimizer in optimizers
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def restore_optimizers(
    optimizers: list[torch.optim.Optimizer], network: nn.Module, heads: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Restores state from `optimizer_tensors`. Raises KeyError or ValueError for the state of other optimizers."""
    optimizer_of = {parameter: o for o in optimizers for group in o.param_groups for parameter in group["params"]}
    parameters = dict(named_parameters(network, heads))
    for key, value in tensors.items():
        name, state_name = key.rsplit("/", 1)
        parameter = parameters[name]
        if state_name not in _STATE_NAMES[type(optimizer_of[parameter])] or value.shape not in (parameter.shape, ()):
            raise ValueError(f"{key} is no state of this optimizer")
        is_like_parameter = value.shape == parameter.shape
        optimizer_of[parameter].state[parameter][state_name] = (
            distribute_like(value, parameter) if is_like_parameter else value.to(parameter.device)
        )
