"""What a loss function returns, as something that can be divided once by a global count.

A loss may return a scalar (a mean over `count` predictions), a value per element (masked and summed here), or a pair
(sum, count), which is exact. Integer targets of -100 are left out of the count, as torch's own losses leave them out.
A count of 0 makes a loss of 0, with a gradient of zeros; so does a mean that is not finite where all targets are -100.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from charladder.auxiliary._counts import Count, count_of, counts_scalar, is_integer, is_zero, weight_mask
from charladder.auxiliary._errors import AuxiliaryError, first_line, is_control_flow, raised_by
from charladder.auxiliary._select import map_tensors, tensors_in
from charladder.auxiliary._term import Term
from charladder.auxiliary._torch_losses import option
from charladder.auxiliary._zero_losses import ReplaceWhereEmpty, zero_loss

# These stretch a prediction and a target of different shapes over each other, with a warning at most.
STRETCHING = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
STRETCHING_MODULES = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


@dataclass(frozen=True)
class Measured:
    """A loss of one term, attached to the graph: a `mean` over `count` predictions, or their sum. counted: whether the
    count is known; see TermReport."""

    loss: Tensor
    count: Count
    mean: bool
    counted: bool = True


def measure(
    name: str, term: Term, prediction: Any, target: Any, mask: Tensor | None, count: Callable[[], Count | None]
) -> Measured:
    """Calls the loss of a term; `count` says how many predictions its target asks for.

    A target of None means that the loss takes the prediction alone. Raises AuxiliaryError that names the term.
    """
    loss, prediction = without_empty(term, prediction, count)
    one = call_loss(name, term, loss, prediction, target, mask, count)
    empty = is_empty(one)
    if isinstance(empty, Tensor):
        return dataclasses.replace(one, loss=torch.where(empty, 0, one.loss))
    if not empty:
        return one
    trained = list(term.loss.parameters()) if isinstance(term.loss, nn.Module) else []
    return dataclasses.replace(one, loss=zero_loss([*tensors_in(prediction), *trained]).to(one.loss))


def is_empty(one: Measured) -> bool | Tensor:
    """Whether a term has nothing to predict; a tensor as from `is_zero`.

    Where the count is not known, all targets are -100 and the mean is not finite: a finite one has read them as labels.
    """
    empty = is_zero(one.count)
    if one.counted or empty is False:
        return empty
    empty = empty & ~one.loss.detach().isfinite()
    return bool(empty) if empty.device.type == "cpu" else empty


def without_empty(term: Term, prediction: Any, count: Callable[[], Count | None]) -> tuple[Callable[..., Any], Any]:
    """The loss of a term and its prediction. They are protected from the gradient of a mean over nothing, which may be
    NaN, where only a device knows whether the count is 0; it is zeros for torch's losses, unless they have weights.
    """
    loss = term.loss
    if term.count is None and (option(loss, "weight") is None or not counts_scalar(term)):
        return loss, prediction
    found = count()
    empty = found is not None and is_zero(found)
    if not isinstance(empty, Tensor):
        return loss, prediction

    def guard(tensor: Tensor) -> Tensor:
        return ReplaceWhereEmpty.apply(tensor, empty) if tensor.requires_grad else tensor

    if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
        parameters = {key: guard(parameter) for key, parameter in loss.named_parameters()}
        return lambda *arguments: functional_call(loss, parameters, arguments), map_tensors(guard, prediction)
    return loss, map_tensors(guard, prediction)


def call_loss(
    name: str,
    term: Term,
    loss: Callable[..., Any],
    prediction: Any,
    target: Any,
    mask: Tensor | None,
    count: Callable[[], Count | None],
) -> Measured:
    """What the loss of a term returned."""
    if getattr(prediction, "shape", None) != getattr(target, "shape", None) and broadcasts(term.loss):
        raise AuxiliaryError(
            f"term {name!r}: its loss would compare {compare_shapes(prediction, target)}; give both the same shape"
        )
    try:
        result = loss(prediction) if target is None else loss(prediction, target)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        hint = '; say which part of the output is meant with Term(select="logits")' if is_scalar(prediction) else ""
        raise AuxiliaryError(
            f"term {name!r}: its loss cannot compare {compare_shapes(prediction, target)}: {first_line(error)}{hint}"
        ) from error
    except Exception as error:
        if is_control_flow(error):
            raise
        raise raised_by(f"term {name!r}: its loss", error) from error
    if isinstance(result, tuple):
        return pair(name, result, mask)
    if not isinstance(result, Tensor):
        raise AuxiliaryError(
            f"term {name!r}: its loss returned {describe(result)}; it must return a scalar, a value per element, or "
            "a pair (sum, count)"
        )
    if result.ndim == 0:
        if mask is not None:
            raise AuxiliaryError(
                f"term {name!r} has a mask, and its loss returned one scalar; make it return a value per element "
                "(reduction='none')"
            )
        if option(term.loss, "reduction") == "sum":
            raise AuxiliaryError(
                f"term {name!r}: its loss has reduction='sum', and a sum cannot be told from a mean; use 'mean' or "
                "'none', or return a pair (sum, count)"
            )
        found = count()
        counted = found is not None and counts_scalar(term)
        return Measured(result, 1 if found is None else found, mean=True, counted=counted)
    return per_element(name, term, result, target, mask, count)


def pair(name: str, result: tuple[Any, ...], mask: Tensor | None) -> Measured:
    """A loss that has summed and counted by itself."""
    if len(result) != 2 or not isinstance(result[0], Tensor) or result[0].numel() != 1:
        raise AuxiliaryError(f"term {name!r}: its loss returned {describe(result)}; a pair must be (sum, count)")
    if mask is not None:
        raise AuxiliaryError(f"term {name!r} has a mask, and its loss counts by itself; apply the mask in the loss")
    return Measured(result[0].reshape(()), result[1], mean=False)


def per_element(
    name: str, term: Term, values: Tensor, target: Any, mask: Tensor | None, count: Callable[[], Count | None]
) -> Measured:
    """The sum of a loss per element, in at least float32, over the elements that count."""
    wide = torch.promote_types(values.dtype, torch.float32)
    if mask is not None:
        if mask.shape != values.shape[: mask.ndim]:
            raise AuxiliaryError(
                f"term {name!r}: its mask has shape {tuple(mask.shape)} and its loss {tuple(values.shape)}; the mask "
                "must have the loss's shape, or its first dimensions"
            )
        values = values.flatten(mask.ndim).mean(-1) if values.ndim > mask.ndim else values
        where = weight_mask(term, target, mask)
        # Chosen, not multiplied: NaN in a place that does not count must not come through.
        if where is not None and where.is_floating_point():
            values = torch.where(where != 0, values * where.to(wide), 0)
        elif where is not None:
            values = torch.where(where, values, 0)
        found = count_of(name, term, target, mask)
        return Measured(values.sum(dtype=wide), values.numel() if found is None else found, mean=False)
    total = values.sum(dtype=wide)
    if not isinstance(target, Tensor):
        found = None if term.count is None else count()
        return Measured(total, values.numel() if found is None else found, mean=False)
    labels = is_integer(target) or target.dtype == torch.bool
    if not (values.numel() == target.numel() if labels else values.shape == target.shape[: values.ndim]):
        raise AuxiliaryError(
            f"term {name!r}: its loss has shape {tuple(values.shape)} for targets of shape {tuple(target.shape)}; "
            "one value per target is needed, or a mean"
        )
    found = count() if labels or term.count is not None else None
    return Measured(total, values.numel() if found is None else found, mean=False)


def broadcasts(loss: Callable[..., Any]) -> bool:
    return getattr(loss, "func", loss) in STRETCHING or isinstance(loss, STRETCHING_MODULES)


def is_scalar(prediction: Any) -> bool:
    """Whether what was to be a prediction is one number: the loss that some models return first."""
    return isinstance(prediction, Tensor) and prediction.ndim == 0


def compare_shapes(prediction: Any, target: Any) -> str:
    what = f"a prediction {describe(prediction)}"
    return what if target is None else f"{what} with a target {describe(target)}"


def describe(thing: Any) -> str:
    """A thing in a message: shapes for tensors, types for the rest."""
    if isinstance(thing, Tensor):
        return f"of shape {tuple(thing.shape)}"
    if isinstance(thing, tuple | list):
        return f"({', '.join(describe(part) for part in thing)})"
    return f"of type {type(thing).__name__}"
