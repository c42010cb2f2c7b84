"""The check for losses that are NaN or infinite: by each call, or by a later one, which does not wait for a GPU."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError, NotFiniteError, term_and_part
from charladder.auxiliary._report import Report

CheckMode = bool | Literal["auto", "deferred"]
MAX_PENDING = 64  # calls whose values may wait; with more, a call waits for the oldest


@dataclass
class _Values:
    """The losses of one call: those of terms and parts of terms, by `names`, then the total. ready: set once they are
    on the host."""

    values: Tensor
    names: list[tuple[str, str | None]]
    weights: list[float]
    call: int
    ready: Any = None

    def raise_if_not_finite(self, calls: int) -> None:
        """calls: the number of calls until now."""
        if bool(torch.isfinite(self.values).all()):
            return
        when = "" if self.call == calls else f", in a call before this one ({calls - self.call} before)"
        values = cast("list[float]", self.values.tolist())
        for (name, part), weight, value in zip(self.names, self.weights, values, strict=False):
            if not math.isfinite(value):
                raise NotFiniteError(f"{term_and_part(name, part)} is {value} (its weight is {weight:g}){when}", name)
        raise NotFiniteError(f"the total is not finite, though every term is; lower the weights{when}", "total")


class FiniteCheck:
    """Raises NotFiniteError for reports whose losses are not finite.

    mode: True checks each report when it is made, which waits for an accelerator. "deferred" copies the losses to the
    host in the background, and checks those that have arrived at the next report. "auto" is "deferred" for losses on
    an accelerator, otherwise True. False does nothing. While torch.compile traces a step, nothing is checked.
    """

    def __init__(self, mode: Any) -> None:
        if not isinstance(mode, bool) and mode not in ("auto", "deferred"):
            raise AuxiliaryError(f'check is {mode!r}; it must be True, False, "deferred" or "auto"')
        self.mode: CheckMode = mode
        self._calls = 0
        self._pending: deque[_Values] = deque()

    def __call__(self, report: Report, world_size: int) -> None:
        """world_size: the number of processes. With several, the total is of this process, the losses are of all."""
        if self.mode is False or torch.compiler.is_compiling():
            return
        self._calls += 1
        is_immediate = self.mode is True or (self.mode == "auto" and report.total.device.type == "cpu")
        if is_immediate and world_size == 1 and math.isfinite(report.total.item()):
            return  # the sum of the terms is finite only if they all are
        rows = {
            (name, part): one
            for name, term in report.terms.items()
            if term.weight != 0
            for part, one in (term.parts or {None: term}).items()
            if one.weight != 0
        }
        losses = [one.loss for one in rows.values()]
        values = torch.stack([loss.detach().float() for loss in (*losses, report.total)])
        call = _Values(values, list(rows), [one.weight for one in rows.values()], self._calls)
        if is_immediate:
            call.raise_if_not_finite(self._calls)
            return
        self._raise_arrived()
        self._pending.append(_to_host(call))

    def __reduce__(self) -> Any:
        return FiniteCheck, (self.mode,)  # a copy has checked nothing

    def finish(self) -> None:
        """Waits for the values of all calls, and checks them."""
        while self._pending:
            self._check_oldest()

    def _raise_arrived(self) -> None:
        while self._pending:
            ready = self._pending[0].ready
            if ready is not None and not ready.query() and len(self._pending) < MAX_PENDING:
                return
            self._check_oldest()

    def _check_oldest(self) -> None:
        call = self._pending.popleft()
        if call.ready is not None:
            call.ready.synchronize()
        call.raise_if_not_finite(self._calls)


def _to_host(call: _Values) -> _Values:
    """The same call with its values on their way to the host."""
    device = call.values.device
    if device.type != "cuda":
        return call  # reading them at the next call waits for at most one step
    host = torch.empty(call.values.shape, dtype=call.values.dtype, pin_memory=True)
    host.copy_(call.values, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record(torch.cuda.current_stream(device))
    return _Values(host, call.names, call.weights, call.call, ready)
