"""How much of a text no stop string can take back, by trying every end of it."""

from hypothesis import given
from hypothesis import strategies as st

from charladder.generation.stop_strings import settled_length

few = st.integers(0, 1)


@given(st.lists(few, max_size=8), st.lists(st.lists(few, min_size=1, max_size=5), max_size=3))
def test_all_is_settled_but_the_longest_end_with_which_a_stop_string_may_begin(ids, stops):
    ending = [len(stop) for stop in stops if ids[max(0, len(ids) - len(stop)) :] == stop]
    if ending:
        assert settled_length(ids, stops) == (len(ids) - max(ending), True)
        return
    begun = [n for stop in stops for n in range(len(stop)) if n <= len(ids) and ids[len(ids) - n :] == stop[:n]]
    assert settled_length(ids, stops) == (len(ids) - max(begun, default=0), False)
