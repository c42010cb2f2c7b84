"""Incremental decoding of symbols."""

from hypothesis import given
from hypothesis import strategies as st

from charladder.serving.tokens import IncrementalDecoder, Tokenizer
from charladder.text import Alphabet

BYTES = Tokenizer(Alphabet(), "error")
PIECES = st.lists(st.one_of(st.text(max_size=4).map(str.encode), st.binary(max_size=4)), max_size=8)


@given(pieces=PIECES, marks=st.data())
def test_incremental_decoding_equals_decoding_at_once(pieces, marks):
    """An ASCII piece is spelled in fewer steps than one that has other bytes, or follows a character that is not
    complete: here the whole never is ASCII."""
    pieces = [*pieces, "ä".encode()]
    ids = b"".join(pieces)
    drafted = marks.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    whole = IncrementalDecoder(BYTES, 3).add(list(ids), drafted, True)
    assert whole.text == ids.decode("utf-8", "replace")
    decoder, at, text, marked, offsets = IncrementalDecoder(BYTES, 3), 0, "", "", []
    for number, piece in enumerate(pieces):
        part = drafted[at : at + len(piece)]
        spelled = decoder.add(list(piece), part, number + 1 == len(pieces))
        at, text, marked = at + len(piece), text + spelled.text, marked + spelled.marks
        offsets += spelled.offsets
    assert (text, marked, offsets) == (whole.text, whole.marks, whole.offsets)
