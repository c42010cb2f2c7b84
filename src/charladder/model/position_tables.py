"""The length of tables that have a row for each position, such as rotary angles."""

_MIN_LENGTH = 1 << 14


def table_length(end: int, context: int) -> int:
    """How many rows to compute where `end` are needed: those of the whole context if it is short, else a power of two.

    So a short text costs little in a network with a context of millions, and a table that grows with a text is seldom
    computed again.
    """
    return max(end, min(context, max(_MIN_LENGTH, 1 << (end - 1).bit_length())))
