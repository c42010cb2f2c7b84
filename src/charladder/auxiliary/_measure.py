"""The loss of one term with its count: a sum or a mean, from which the mean over the global count is computed later.

A loss may return a scalar (a mean over `count` predictions), a value per element (masked and summed here), a pair
(sum, count), which is exact, or a mapping of named parts (_parts.py), each of them one of these. Integer targets of
-100 are left out of the count, as in torch's own losses. A count of 0 makes a loss of 0, with a gradient of zeros; so
does a mean that is not finite if all targets are -100.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from charladder.auxiliary._counts import (
    Count,
    PartCounts,
    count_of_mask,
    count_of_part,
    is_integer,
    is_readable,
    is_zero,
    knows_scalar_count,
    weight_mask,
)
from charladder.auxiliary._errors import AuxiliaryError, first_line, is_control_flow, raised_by, term_and_part
from charladder.auxiliary._mean_divisors import loss_option
from charladder.auxiliary._parts import part_weights
from charladder.auxiliary._select import is_mapping, is_tuple_or_list, map_tensors, tensors_in
from charladder.auxiliary._term import Term
from charladder.auxiliary._zero_losses import zero_gradient_where, zero_loss

# These broadcast a prediction and a target of different shapes, with at most a warning.
_BROADCASTING_FUNCTIONS = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
_BROADCASTING_MODULES = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


@dataclass(frozen=True)
class MeasuredLoss:
    """The loss of one term, attached to the graph: a `mean` over `count` predictions, or their sum.

    counted: whether the count is known; see TermReport. part: its name, if it is a part of a term; weight: of the part.
    """

    loss: Tensor
    count: Count
    mean: bool
    counted: bool = True
    part: str | None = None
    weight: float = 1.0


def measure(
    name: str, term: Term, prediction: Any, target: Any, mask: Tensor | None, count: Callable[[], PartCounts | None]
) -> list[MeasuredLoss]:
    """Calls the loss of a term, which may have several parts; `count` returns the number of predictions in its target.

    With a target of None the loss takes the prediction alone. Raises AuxiliaryError that names the term.
    """
    loss, prediction = _guard_gradients(term, prediction, count)
    result = _call_loss(name, term, loss, prediction, target)
    if term.parts is None and (isinstance(result, Tensor) or not is_mapping(result)):
        return [_measure_part(name, None, term, result, prediction, target, mask, count)]
    weights = part_weights(name, term.parts, result)
    parts = [_measure_part(name, part, term, result[part], prediction, target, mask, count) for part in weights]
    return [dataclasses.replace(one, part=part, weight=weights[part]) for part, one in zip(weights, parts, strict=True)]


def _measure_part(
    name: str,
    part: str | None,
    term: Term,
    result: Any,
    prediction: Any,
    target: Any,
    mask: Tensor | None,
    count: Callable[[], PartCounts | None],
) -> MeasuredLoss:
    """One part of what a loss returned; part: None for a loss without parts."""

    def count_here() -> Count | None:
        counts = count()
        return None if counts is None else count_of_part(name, counts, part)

    measured = _read_result(term_and_part(name, part), term, result, target, mask, count_here)
    if part is not None and measured.mean and measured.counted and isinstance(measured.count, Tensor):
        # The gradient of a mean over nothing may be NaN, and `_guard_gradients` cannot replace it in one part alone. So
        # the count is read here, which waits for its device.
        measured = dataclasses.replace(measured, count=measured.count.cpu())
    empty = _is_empty(measured)
    if isinstance(empty, Tensor):
        return dataclasses.replace(measured, loss=torch.where(empty, 0, measured.loss))
    if not empty:
        return measured
    parameters = list(term.loss.parameters()) if isinstance(term.loss, nn.Module) else []
    zero = zero_loss([*tensors_in(prediction), *parameters])
    return dataclasses.replace(measured, loss=zero.to(measured.loss))


def _is_empty(measured: MeasuredLoss) -> bool | Tensor:
    """Whether a term has nothing to predict; a tensor as from `is_zero`.

    With an unknown count: if all targets are -100 and the mean is not finite. A finite mean used them as labels.
    """
    empty = is_zero(measured.count)
    if measured.counted or empty is False:
        return empty
    empty = empty & ~measured.loss.detach().isfinite()
    return bool(empty) if is_readable(empty) else empty


def _guard_gradients(
    term: Term, prediction: Any, count: Callable[[], PartCounts | None]
) -> tuple[Callable[..., Any], Any]:
    """The loss of a term and its prediction, guarded against the gradient of a mean over nothing, which may be NaN.

    Only where the count is on an accelerator. torch's losses have gradients of zero there, unless they have weights.
    """
    loss = term.loss
    if term.count is None and (loss_option(loss, "weight") is None or not knows_scalar_count(term)):
        return loss, prediction
    number = count()
    empty = number is not None and not isinstance(number, Mapping) and is_zero(number)
    if not isinstance(empty, Tensor):
        return loss, prediction

    def guard(tensor: Tensor) -> Tensor:
        return zero_gradient_where(empty, tensor)

    if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
        parameters = {key: guard(parameter) for key, parameter in loss.named_parameters()}
        return lambda *arguments: functional_call(loss, parameters, arguments), map_tensors(guard, prediction)
    return loss, map_tensors(guard, prediction)


def _call_loss(name: str, term: Term, loss: Callable[..., Any], prediction: Any, target: Any) -> Any:
    """What the loss function returns. Raises AuxiliaryError if it fails."""
    if getattr(prediction, "shape", None) != getattr(target, "shape", None) and _broadcasts(term.loss):
        raise AuxiliaryError(
            f"term {name!r}: its loss would compare {_describe_both(prediction, target)}; give both the same shape"
        )
    try:
        return loss(prediction) if target is None else loss(prediction, target)
    except Exception as error:
        if is_control_flow(error):
            raise
        if not isinstance(error, RuntimeError | ValueError | TypeError | IndexError | AttributeError):
            raise raised_by(f"term {name!r}: its loss", error) from error
        # Some models return their loss, a scalar, as the first output.
        is_scalar = isinstance(prediction, Tensor) and prediction.ndim == 0
        hint = '; say which part of the output is meant with Term(select="logits")' if is_scalar else ""
        raise AuxiliaryError(
            f"term {name!r}: its loss cannot compare {_describe_both(prediction, target)}: {first_line(error)}{hint}"
        ) from error


def _read_result(
    where: str, term: Term, result: Any, target: Any, mask: Tensor | None, count: Callable[[], Count | None]
) -> MeasuredLoss:
    """A loss from what its function returned, or from one part of it; where: how messages call it."""
    if isinstance(result, tuple):
        return _from_pair(where, result, mask)
    if not isinstance(result, Tensor):
        raise AuxiliaryError(
            f"{where}: its loss returned {describe(result)}; it must return a scalar, a value per element, or a pair "
            "(sum, count)"
        )
    if result.ndim == 0:
        if mask is not None:
            raise AuxiliaryError(
                f"{where} has a mask, and its loss returned one scalar; make it return a value per element "
                "(reduction='none')"
            )
        if loss_option(term.loss, "reduction") == "sum":
            raise AuxiliaryError(
                f"{where}: its loss has reduction='sum', and a sum cannot be distinguished from a mean; use "
                "'mean' or 'none', or return a pair (sum, count)"
            )
        number = count()
        counted = number is not None and knows_scalar_count(term)
        return MeasuredLoss(result, 1 if number is None else number, mean=True, counted=counted)
    return _sum_elements(where, term, result, target, mask, count)


def _from_pair(where: str, result: Any, mask: Tensor | None) -> MeasuredLoss:
    """From a loss that returned (sum, count)."""
    if len(result) != 2 or not isinstance(result[0], Tensor) or result[0].numel() != 1:
        raise AuxiliaryError(f"{where}: its loss returned {describe(result)}; a pair must be (sum, count)")
    if mask is not None:
        raise AuxiliaryError(f"{where} has a mask, and its loss counts by itself; apply the mask in the loss")
    number = result[1]
    if isinstance(number, Tensor):
        valid = number.numel() == 1 and (not is_readable(number) or 0 <= float(number) < math.inf)
    else:
        valid = isinstance(number, int | float) and 0 <= number < math.inf
    if not valid:
        raise AuxiliaryError(f"{where}: its loss returned the count {number!r}; it must be a number of at least 0")
    return MeasuredLoss(result[0].reshape(()), number, mean=False)


def _sum_elements(
    where: str, term: Term, values: Tensor, target: Any, mask: Tensor | None, count: Callable[[], Count | None]
) -> MeasuredLoss:
    """The sum of a loss per element, in at least float32, over the elements that count."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    number: Count | None = None
    if mask is not None:
        if mask.shape != values.shape[: mask.ndim]:
            raise AuxiliaryError(
                f"{where}: its mask has shape {tuple(mask.shape)} and its loss {tuple(values.shape)}; the mask "
                "must have the loss's shape, or its first dimensions"
            )
        values = values.flatten(mask.ndim).mean(-1) if values.ndim > mask.ndim else values
        kept = weight_mask(term, target, mask)
        # torch.where, and not a product: NaN times 0 is NaN.
        if kept is not None and kept.is_floating_point():
            values = torch.where(kept != 0, values * kept.to(dtype), 0)
        elif kept is not None:
            values = torch.where(kept, values, 0)
        number = None if kept is None else count_of_mask(kept)
    elif isinstance(target, Tensor):
        labels = is_integer(target) or target.dtype == torch.bool
        if not (values.numel() == target.numel() if labels else values.shape == target.shape[: values.ndim]):
            raise AuxiliaryError(
                f"{where}: its loss has shape {tuple(values.shape)} for targets of shape {tuple(target.shape)}; "
                "one value per target is needed, or a mean"
            )
        number = count() if labels or term.count is not None else None
    elif term.count is not None:
        number = count()
    return MeasuredLoss(values.sum(dtype=dtype), values.numel() if number is None else number, mean=False)


def _broadcasts(loss: Any) -> bool:
    if isinstance(loss, FunctionType):
        return loss in _BROADCASTING_FUNCTIONS
    return getattr(loss, "func", loss) in _BROADCASTING_FUNCTIONS or isinstance(loss, _BROADCASTING_MODULES)


def _describe_both(prediction: Any, target: Any) -> str:
    what = f"a prediction {describe(prediction)}"
    return what if target is None else f"{what} with a target {describe(target)}"


def describe(value: Any) -> str:
    """A value in a message: shapes of tensors, types of other values."""
    if isinstance(value, Tensor):
        return f"of shape {tuple(value.shape)}"
    if is_tuple_or_list(value):
        return f"({', '.join(describe(part) for part in value)})"
    return f"of type {type(value).__name__}"
