"""Stop strings, which end a text."""

from collections.abc import Sequence


def find_safe_length(ids: Sequence[int], stops: Sequence[Sequence[int]]) -> tuple[int, bool]:
    """The number of characters that cannot become part of a stop string, and whether the text ends with a stop string.

    A stop string is not part of the text; if two match, the longer one is removed.
    """
    end = len(ids)
    for stop in sorted(stops, key=len, reverse=True):
        if len(stop) <= end and list(ids[end - len(stop) :]) == list(stop):
            return end - len(stop), True
    possible_prefix = max(
        (n for stop in stops for n in range(1, min(len(stop) - 1, end) + 1) if list(ids[end - n :]) == list(stop[:n])),
        default=0,
    )
    return end - possible_prefix, False
