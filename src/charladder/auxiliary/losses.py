"""What a loss function returns, as something that can be divided once by a global count.

A loss may return a scalar (a mean over `count` predictions), a value per element (masked and summed here), or a pair
(sum, count), which is exact. Integer targets of -100 are left out of the count, as torch's own losses leave them out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.auxiliary.counting import Count, count_of, kept, option, whole_numbers
from charladder.auxiliary.errors import AuxiliaryError, first_line, is_control_flow, raised_by
from charladder.auxiliary.term import Term

# These stretch a prediction and a target of different shapes over each other, with a warning at most.
STRETCHING = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
STRETCHING_MODULES = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


@dataclass(frozen=True)
class Measured:
    """A loss of one term, attached to the graph: a `mean` over `count` predictions, or their sum. `own`: the loss has
    counted by itself, and nobody else knows how."""

    loss: Tensor
    count: Count
    mean: bool
    own: bool = False


def measure(
    name: str, term: Term, prediction: Any, target: Any, mask: Tensor | None, count: Callable[[], Count | None]
) -> Measured:
    """Calls the loss of a term; `count` says how many predictions its target asks for.

    A target of None means that the loss takes the prediction alone. Raises AuxiliaryError that names the term.
    """
    loss = term.loss
    if getattr(prediction, "shape", None) != getattr(target, "shape", None) and stretches(loss):
        raise AuxiliaryError(
            f"term {name!r}: its loss would compare {compared(prediction, target)}; give both the same shape"
        )
    try:
        result = loss(prediction) if target is None else loss(prediction, target)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        hint = '; say which part of the output is meant with Term(select="logits")' if is_scalar(prediction) else ""
        raise AuxiliaryError(
            f"term {name!r}: its loss cannot compare {compared(prediction, target)}: {first_line(error)}{hint}"
        ) from error
    except Exception as error:
        if is_control_flow(error):
            raise
        raise raised_by(f"term {name!r}: its loss", error) from error
    if isinstance(result, tuple):
        return pair(name, result, mask)
    if not isinstance(result, Tensor):
        raise AuxiliaryError(
            f"term {name!r}: its loss returned {described(result)}; it must return a scalar, a value per element, or "
            "a pair (sum, count)"
        )
    if result.ndim == 0:
        if mask is not None:
            raise AuxiliaryError(
                f"term {name!r} has a mask, and its loss returned one scalar; make it return a value per element "
                "(reduction='none')"
            )
        if option(loss, "reduction") == "sum":
            raise AuxiliaryError(
                f"term {name!r}: its loss has reduction='sum', and a sum cannot be told from a mean; use 'mean' or "
                "'none', or return a pair (sum, count)"
            )
        found = count()
        return Measured(result, 1 if found is None else found, mean=True)
    return per_element(name, term, result, target, mask, count)


def pair(name: str, result: tuple[Any, ...], mask: Tensor | None) -> Measured:
    """A loss that has summed and counted by itself."""
    if len(result) != 2 or not isinstance(result[0], Tensor) or result[0].numel() != 1:
        raise AuxiliaryError(f"term {name!r}: its loss returned {described(result)}; a pair must be (sum, count)")
    if mask is not None:
        raise AuxiliaryError(f"term {name!r} has a mask, and its loss counts by itself; apply the mask in the loss")
    return Measured(result[0].reshape(()), result[1], mean=False, own=True)


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
        where = kept(term, target, mask)
        # Chosen, not multiplied: NaN in a place that does not count must not come through.
        chosen = values if where is None else torch.where(where, values, 0)
        return Measured(chosen.sum(dtype=wide), masked(term, target, mask), mean=False)
    total = values.sum(dtype=wide)
    if not isinstance(target, Tensor):
        found = None if term.count is None else count()
        return Measured(total, values.numel() if found is None else found, mean=False)
    labels = whole_numbers(target) or target.dtype == torch.bool
    if not (values.numel() == target.numel() if labels else values.shape == target.shape[: values.ndim]):
        raise AuxiliaryError(
            f"term {name!r}: its loss has shape {tuple(values.shape)} for targets of shape {tuple(target.shape)}; "
            "one value per target is needed, or a mean"
        )
    found = count() if labels or term.count is not None else None
    return Measured(total, values.numel() if found is None else found, mean=False)


def masked(term: Term, target: Any, mask: Tensor) -> Count:
    found = count_of(term, target, mask)
    return mask.count_nonzero() if found is None else found


def stretches(loss: Callable[..., Any]) -> bool:
    return getattr(loss, "func", loss) in STRETCHING or isinstance(loss, STRETCHING_MODULES)


def is_scalar(prediction: Any) -> bool:
    """Whether what was to be a prediction is one number: the loss that some models return first."""
    return isinstance(prediction, Tensor) and prediction.ndim == 0


def compared(prediction: Any, target: Any) -> str:
    what = f"a prediction {described(prediction)}"
    return what if target is None else f"{what} with a target {described(target)}"


def described(thing: Any) -> str:
    """A thing in a message: shapes for tensors, types for the rest."""
    if isinstance(thing, Tensor):
        return f"of shape {tuple(thing.shape)}"
    if isinstance(thing, tuple | list):
        return f"({', '.join(described(part) for part in thing)})"
    return f"of type {type(thing).__name__}"
