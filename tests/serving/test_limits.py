"""The limits of the service are inclusive, as their sentences say."""

import pytest

from charladder.errors import UserError
from charladder.serving.limits import Limits


@pytest.mark.parametrize(("name", "least", "most"), [("streams", 1, 4096), ("max_tokens", 1, 1 << 24)])
def test_a_limit_may_be_as_low_and_as_high_as_the_sentence_says(name, least, most):
    for value in (least, most):
        assert getattr(Limits(**{name: value}), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(UserError, match=f" is {value}; it must be between {least} and {most:,} "):
            Limits(**{name: value})


def test_the_time_of_a_request_is_above_zero_and_below_a_million_seconds():
    assert Limits(seconds=999_999.5).seconds == 999_999.5
    for seconds in (0.0, 1e6):
        with pytest.raises(UserError, match="it must be above 0 and below a million"):
            Limits(seconds=seconds)
