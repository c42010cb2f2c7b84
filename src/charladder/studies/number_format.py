"""Numbers as text in tables. spec: of `format`, such as `.4f`."""

from charladder.studies.statistics import Difference, Estimate

NO_VALUE = "-"


def format_mean(number: Estimate | Difference | None, spec: str) -> str:
    return f"{number.mean:{spec}}" if number else NO_VALUE


def format_interval(number: Estimate | Difference | None, spec: str) -> str:
    if number is None or number.low is None or number.high is None:
        return NO_VALUE
    return f"{number.low:{spec}} to {number.high:{spec}}"


def format_number(number: float | None, spec: str) -> str:
    return NO_VALUE if number is None else f"{number:{spec}}"


def format_p_value(p: float | None) -> str:
    return NO_VALUE if p is None else "< 0.0001" if p < 0.0001 else f"{p:.4f}"
