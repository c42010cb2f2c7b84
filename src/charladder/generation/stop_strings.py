"""Stop strings: where a text ends, and how many of its characters are final until then."""

from collections.abc import Sequence


def settled_length(ids: Sequence[int], stops: Sequence[Sequence[int]]) -> tuple[int, bool]:
    """How many characters no stop string can remove any more, and whether a stop string ends the text at its last
    character. A stop string is no part of the text; of two that end here, the longer one is used."""
    end = len(ids)
    for stop in sorted(stops, key=len, reverse=True):
        if len(stop) <= end and list(ids[end - len(stop) :]) == list(stop):
            return end - len(stop), True
    held = max(
        (n for stop in stops for n in range(1, min(len(stop) - 1, end) + 1) if list(ids[end - n :]) == list(stop[:n])),
        default=0,
    )
    return end - held, False
