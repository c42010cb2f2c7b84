"""The keys under which an objective keeps the heads and losses of its terms, and so their names in `state_dict`."""

import zlib
from collections import Counter
from collections.abc import Iterable

from torch import nn


def module_keys(names: Iterable[str]) -> dict[str, str]:
    """A key for each term's name: the name with `.` written as `_`, which nn.ModuleDict allows.

    Two names that would have one key (`a.b` and `a_b`) both get a checksum of the name behind it. No key depends on the
    order of the terms.
    """
    keys = {name: attribute_free(name.replace(".", "_")) for name in names}
    times = Counter(keys.values())
    return {name: key if times[key] == 1 else f"{key}_{zlib.crc32(name.encode()):08x}" for name, key in keys.items()}


def attribute_free(key: str) -> str:
    """The key with `_` behind it where it is an attribute of every nn.ModuleDict, such as `type`."""
    return f"{key}_" if hasattr(_EMPTY, key) else key


_EMPTY = nn.ModuleDict()
