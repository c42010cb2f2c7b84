"""Incremental decoding of symbols."""

from hypothesis import given
from hypothesis import strategies as st

from charladder.serving.tokens import IncrementalDecoder, Tokenizer
from charladder.text import Alphabet

BYTES = Tokenizer(Alphabet(), "error")
PIECES = st.lists(st.one_of(st.text(max_size=4).map(str.encode), st.binary(max_size=4)), max_size=8)


@given(pieces=PIECES, marks=st.data())
def test_incremental_decoding_equals_decoding_at_once(pieces, marks):
    """Pieces of ASCII are decoded in a shorter way; the bytes at once are never all ASCII."""
    pieces = [*pieces, "ä".encode()]
    ids = b"".join(pieces)
    drafted = marks.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    expected = IncrementalDecoder(BYTES, 3).add(list(ids), drafted, True)
    assert expected.text == ids.decode("utf-8", "replace")
    decoder, begin, text, marked, offsets = IncrementalDecoder(BYTES, 3), 0, "", "", []
    for number, piece in enumerate(pieces):
        part = drafted[begin : begin + len(piece)]
        decoded = decoder.add(list(piece), part, number + 1 == len(pieces))
        begin, text, marked = begin + len(piece), text + decoded.text, marked + decoded.marks
        offsets += decoded.offsets
    assert (text, marked, offsets) == (expected.text, expected.marks, expected.offsets)
