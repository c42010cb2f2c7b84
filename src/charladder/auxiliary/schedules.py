"""Schedules: weights as functions of the progress of training, in [0, 1].

Any function of progress is a schedule. Each function of this module returns one; its values are between the given ones,
and stay at the last one after its end.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Protocol

from charladder.auxiliary._errors import AuxiliaryError


class Schedule(Protocol):
    """A function from progress in [0, 1] to a weight."""

    def __call__(self, progress: float, /) -> float: ...


def constant(value: float) -> Schedule:
    """Always `value`."""
    return partial(_constant, value)


def until(end: float, value: float = 1.0) -> Schedule:
    """`value` while progress < end, then 0.

    >>> [until(0.5, 0.3)(progress) for progress in (0.0, 0.4, 0.5, 1.0)]
    [0.3, 0.3, 0.0, 0.0]
    """
    _check_end("end", end)
    return partial(_until, end, value)


def linear(start: float, end: float, until: float = 1.0) -> Schedule:
    """A straight line from `start` at 0 to `end` at progress `until`, and `end` from there. Continuous.

    >>> weight = linear(0.8, 0.0, until=0.5)
    >>> weight(0.0), weight(0.25), weight(0.5), weight(1.0)
    (0.8, 0.4, 0.0, 0.0)
    """
    _check_end("until", until)
    return partial(_linear, start, end, until)


def cosine(start: float, end: float, until: float = 1.0) -> Schedule:
    """Half a period of a cosine from `start` at 0 to `end` at progress `until`: flat at both ends. Continuous."""
    _check_end("until", until)
    return partial(_cosine, start, end, until)


def exponential(start: float, end: float, until: float = 1.0) -> Schedule:
    """Geometric interpolation from `start` at 0 to `end` at progress `until`. Continuous.

    Raises AuxiliaryError unless both are above 0.
    """
    _check_end("until", until)
    if not (start > 0 and end > 0):
        raise AuxiliaryError(f"exponential goes from {start} to {end}, and both must be above 0; use linear to reach 0")
    return partial(_exponential, start, end, until)


def warm_up(end: float, value: float = 1.0) -> Schedule:
    """A straight line from 0 to `value` at progress `end`, and `value` from there. Continuous."""
    return linear(0.0, value, until=end)


def step(values: Sequence[float], at: Sequence[float]) -> Schedule:
    """values[0] until at[0], values[1] until at[1], and so on; the last value needs no end.

    >>> [step([1.0, 0.5, 0.0], at=[0.25, 0.5])(t) for t in (0, 0.25, 0.4, 0.5)]
    [1.0, 0.5, 0.5, 0.0]
    """
    if len(values) != len(at) + 1:
        raise AuxiliaryError(f"step has {len(values)} values and {len(at)} times; it needs one time less than values")
    _check_increasing("step", at)
    return partial(_step, tuple(values), tuple(at))


def piecewise(points: Iterable[tuple[float, float]]) -> Schedule:
    """Straight lines through points (progress, value): the schedule as data. Continuous; flat outside the points.

    >>> piecewise([(0.0, 0.0), (0.1, 1.0), (0.5, 0.0)])(0.3)
    0.5
    """
    pairs = list(points)
    if not pairs:
        raise AuxiliaryError("piecewise has no points; give at least one pair of progress and value")
    times, values = [float(t) for t, _ in pairs], [float(v) for _, v in pairs]
    _check_increasing("piecewise", times)
    return partial(_piecewise, times, values)


def product(*schedules: Schedule) -> Schedule:
    """The product of several schedules: `product(warm_up(0.1), until(0.5))`."""
    return partial(_product, schedules)


def _check_end(name: str, end: float) -> None:
    """Raises AuxiliaryError unless `end` is a progress above 0."""
    if not 0 < end <= 1:
        raise AuxiliaryError(f"{name} is {end}; it must be a progress above 0 and at most 1")


def _check_increasing(what: str, times: Sequence[float]) -> None:
    """Raises AuxiliaryError unless `times` increase and are in [0, 1]."""
    if not all(0 <= t <= 1 for t in times) or any(b <= a for a, b in pairwise(times)):
        raise AuxiliaryError(f"the times of {what} are {list(times)}; they must increase, and be in [0, 1]")


# Functions of this module instead of lambdas, so that a model that holds an objective can be pickled.


def _constant(value: float, progress: float) -> float:
    return value


def _until(end: float, value: float, progress: float) -> float:
    return value if progress < end else 0.0


def _linear(start: float, end: float, until: float, progress: float) -> float:
    return start + (end - start) * (progress / until) if progress < until else end


def _cosine(start: float, end: float, until: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress / until)) / 2 if progress < until else end


def _exponential(start: float, end: float, until: float, progress: float) -> float:
    return start * (end / start) ** (progress / until) if progress < until else end


def _step(values: Sequence[float], at: Sequence[float], progress: float) -> float:
    return values[bisect_right(at, progress)]


def _piecewise(times: Sequence[float], values: Sequence[float], progress: float) -> float:
    after = bisect_right(times, progress)
    if after == 0 or after == len(times):
        return values[max(0, after - 1)]
    begin, end = times[after - 1], times[after]
    part = (progress - begin) / (end - begin)
    return values[after - 1] * (1 - part) + values[after] * part


def _product(schedules: Sequence[Schedule], progress: float) -> float:
    return math.prod(schedule(progress) for schedule in schedules)
