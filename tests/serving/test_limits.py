"""The bounds of the service's limits."""

import pytest

from charladder.errors import UserError
from charladder.serving.limits import Limits


@pytest.mark.parametrize(("name", "least", "most"), [("streams", 1, 4096), ("max_tokens", 1, 1 << 24)])
def test_integer_limits_are_inclusive(name, least, most):
    for value in (least, most):
        assert getattr(Limits(**{name: value}), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(UserError, match=f" is {value}; it must be between {least} and {most:,} "):
            Limits(**{name: value})


def test_seconds_limit():
    assert Limits(seconds=999_999.5).seconds == 999_999.5
    for seconds in (0.0, 1e6):
        with pytest.raises(UserError, match="it must be above 0 and below a million"):
            Limits(seconds=seconds)
