"""`find_safe_length`, compared with a brute-force search."""

from hypothesis import given
from hypothesis import strategies as st

from charladder.generation.stop_strings import find_safe_length

few = st.integers(0, 1)


@given(st.lists(few, max_size=8), st.lists(st.lists(few, min_size=1, max_size=5), max_size=3))
def test_longest_possible_stop_string_prefix_is_not_safe(ids, stops):
    ending = [len(stop) for stop in stops if ids[max(0, len(ids) - len(stop)) :] == stop]
    if ending:
        assert find_safe_length(ids, stops) == (len(ids) - max(ending), True)
        return
    prefixes = [n for stop in stops for n in range(len(stop)) if n <= len(ids) and ids[len(ids) - n :] == stop[:n]]
    assert find_safe_length(ids, stops) == (len(ids) - max(prefixes, default=0), False)
