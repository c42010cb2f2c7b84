import pytest

from charladder.errors import UserError
from charladder.text import split


def test_split_by_position():
    parts = split(1000, 0.1, 50)
    assert (parts.train, parts.valid, parts.test) == ((0, 850), (850, 950), (950, 1000))
    assert parts.part("all") == (0, 1000)
    assert parts.part("test") == (950, 1000)


@pytest.mark.parametrize(
    ("valid", "test", "sentence"),
    [
        (600, 400, "leave none"),
        (-1, 0, "must be a whole number of characters or a fraction below 1"),
        (1.5, 0, "must be a whole number of characters or a fraction below 1"),
        (float("nan"), 0, "must be a whole number of characters or a fraction below 1"),
        (0, float("inf"), "must be a whole number of characters or a fraction below 1"),
    ],
)
def test_invalid_splits_are_refused(valid, test, sentence):
    with pytest.raises(UserError, match=sentence):
        split(1000, valid, test)
