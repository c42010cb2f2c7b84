"""Schedules: bounded, constant after their end, continuous if documented so, and functions of progress alone."""

import inspect
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charladder.auxiliary import AuxiliaryError, schedules

VALUES, ENDS = st.floats(-10, 10), st.floats(0.01, 1)
# On a grid: between points one rounding apart a line is as steep as a jump.
PLACES = st.integers(0, 1 << 20).map(lambda place: place / (1 << 20))
POINTS = st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=6, unique_by=lambda pair: pair[0]).map(sorted)


@st.composite
def schedule_cases(draw):
    """A schedule, its bounds, its end and value there, and whether it is continuous."""
    a, b, end = draw(VALUES), draw(VALUES), draw(ENDS)
    kind = draw(
        st.sampled_from(["constant", "until", "linear", "cosine", "exponential", "warm_up", "step", "piecewise"])
    )
    if kind == "constant":
        return schedules.constant(a), [a], (0.0, a), True
    if kind == "until":
        return schedules.until(end, a), [a, 0.0], (end, 0.0), False
    if kind == "warm_up":
        return schedules.warm_up(end, a), [0.0, a], (end, a), True
    if kind == "exponential":
        a, b = 0.001 + abs(a), 0.001 + abs(b)
        return schedules.exponential(a, b, end), [a, b], (end, b), True
    if kind == "step":
        return schedules.step([a, b], [end]), [a, b], (end, b), False
    if kind == "piecewise":
        points = draw(POINTS)
        return schedules.piecewise(points), [v for _, v in points], points[-1], True
    return getattr(schedules, kind)(a, b, end), [a, b], (end, b), True


@given(schedule_cases(), st.floats(0, 1))
def test_schedules_are_bounded_and_pure(one, progress):
    schedule, values, _, _ = one
    value = schedule(progress)
    assert min(values) - 1e-9 <= value <= max(values) + 1e-9
    assert schedule(1 - progress) is not None  # a call in between ...
    assert schedule(progress) == value  # ... does not change the value


@given(schedule_cases(), st.floats(0, 1))
def test_schedules_are_constant_after_their_end(one, progress):
    schedule, _, (end, value), _ = one
    assert schedule(max(end, progress)) == value
    assert schedule(1.0) == value


@given(schedule_cases())
def test_continuous_schedules_have_no_jumps(one):
    """The values just before and after the end are close."""
    schedule, values, (end, _), continuous = one
    before, after = math.nextafter(end, 0), min(1.0, math.nextafter(end, 1))
    if continuous:
        assert schedule(before) == pytest.approx(schedule(after), abs=1e-6 * (1 + max(map(abs, values))))


@given(st.floats(0, 1), st.floats(0, 1))
def test_piecewise_passes_through_its_points(x, y):
    schedule = schedules.piecewise([(0.0, 1.0), (0.25, x), (0.75, y), (1.0, 0.0)])
    assert [schedule(t) for t in (0, 0.25, 0.75, 1)] == [1.0, x, y, 0.0]
    assert schedule(0.5) == pytest.approx((x + y) / 2)


def test_schedules_by_hand():
    assert [schedules.linear(1, 0, 0.5)(t) for t in (0, 0.125, 0.25, 0.5, 1)] == [1, 0.75, 0.5, 0, 0]
    assert schedules.cosine(1, 0)(0.5) == pytest.approx(0.5)
    assert schedules.cosine(1, 0)(1 / 3) == pytest.approx(0.75)  # (1 + cos 60 degrees) / 2
    assert schedules.exponential(1, 1 / 16)(0.5) == pytest.approx(0.25)
    assert [schedules.warm_up(0.2)(t) for t in (0, 0.1, 0.2, 1)] == [0, 0.5, 1, 1]
    assert [schedules.step([3, 2, 1], [0.2, 0.4])(t) for t in (0, 0.2, 0.39, 0.4)] == [3, 2, 2, 1]
    both = schedules.product(schedules.warm_up(0.2), schedules.until(0.5))
    assert [both(t) for t in (0, 0.1, 0.4, 0.5, 1)] == [0, 0.5, 1, 0, 0]


EXACT_AT = (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
# The values of every schedule at EXACT_AT, computed by hand.
EXACT = {
    "constant": (schedules.constant(0.7), [0.7] * 6),
    "until": (schedules.until(0.3, 0.7), [0.7, 0.7, 0.7, 0, 0, 0]),
    "linear": (schedules.linear(0.9, 0.1, until=0.4), [0.9, 0.7, 0.5, 0.3, 0.1, 0.1]),
    "cosine": (  # (1 + cos x) / 2 at 0, 45, 90, 135 and 180 degrees, between 0.9 and 0.1
        schedules.cosine(0.9, 0.1, until=0.4),
        [0.9, 0.5 + 0.4 * math.sqrt(0.5), 0.5, 0.5 - 0.4 * math.sqrt(0.5), 0.1, 0.1],
    ),
    "exponential": (schedules.exponential(8.0, 0.5, until=0.4), [8, 4, 2, 1, 0.5, 0.5]),
    "warm_up": (schedules.warm_up(0.4, 0.8), [0, 0.2, 0.4, 0.6, 0.8, 0.8]),
    "step": (schedules.step([3, 2, 1], at=[0.2, 0.4]), [3, 3, 2, 2, 1, 1]),
    "piecewise": (schedules.piecewise([(0.1, 0.0), (0.3, 1.0), (0.5, 0.2)]), [0, 0, 0.5, 1, 0.6, 0.2]),
    "product": (
        schedules.product(schedules.warm_up(0.4, 0.8), schedules.until(0.4), schedules.constant(0.5)),
        [0, 0.1, 0.2, 0.3, 0, 0],
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_values_of_every_schedule(name):
    schedule, expected = EXACT[name]
    assert [schedule(progress) for progress in EXACT_AT] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_every_schedule_has_exact_values():
    public = {name for name, one in vars(schedules).items() if inspect.isfunction(one) and is_maker(one)}
    assert public == set(EXACT)


def is_maker(function):
    return (
        function.__module__ == schedules.__name__
        and inspect.signature(function).return_annotation is schedules.Schedule
    )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: schedules.linear(1, 0, until=0), "until is 0; it must be a progress above 0"),
        (lambda: schedules.until(1.5), "end is 1.5; it must be a progress above 0 and at most 1"),
        (lambda: schedules.exponential(1, 0), "both must be above 0; use linear to reach 0"),
        (lambda: schedules.step([1, 2], [0.1, 0.2]), "step has 2 values and 2 times"),
        (lambda: schedules.step([1, 2, 3], [0.5, 0.5]), "must increase"),
        (lambda: schedules.piecewise([]), "piecewise has no points"),
        (lambda: schedules.piecewise([(0.5, 1.0), (0.2, 0.0)]), "must increase"),
        (lambda: schedules.cosine(1, 0, until=math.nan), "until is nan"),
    ],
)
def test_invalid_schedules_raise(make, sentence):
    with pytest.raises(AuxiliaryError, match=sentence.replace("(", r"\(")):
        make()
