"""Stop strings: where a text ends, and how much of it is settled meanwhile."""

from collections.abc import Sequence


def settled_length(ids: Sequence[int], stops: Sequence[Sequence[int]]) -> tuple[int, bool]:
    """How many characters of a text that has just got its last one stay whatever comes, and whether a stop string ends
    it here: it is no part of the text. Of two that end here the longer counts."""
    end = len(ids)
    for stop in sorted(stops, key=len, reverse=True):
        if len(stop) <= end and list(ids[end - len(stop) :]) == list(stop):
            return end - len(stop), True
    held = max(
        (n for stop in stops for n in range(1, min(len(stop) - 1, end) + 1) if list(ids[end - n :]) == list(stop[:n])),
        default=0,
    )
    return end - held, False
