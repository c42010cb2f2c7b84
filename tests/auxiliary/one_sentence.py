"""What the message of an AuxiliaryError must be."""

from collections.abc import Callable
from typing import Any

import pytest

from charladder import auxiliary as aux


def assert_one_sentence(mistake: Callable[[], Any], sentence: str) -> None:
    """The mistake raises an AuxiliaryError that has `sentence` in it, in one line without a full stop."""
    with pytest.raises(aux.AuxiliaryError) as error:
        mistake()
    message = str(error.value)
    assert sentence in message
    assert "\n" not in message and not message.endswith(".")
