"""What the results of a network depend on to the last bit: versions, processor, kernels, threads.

A decoder must compute exactly what the encoder computed. One different bit in one probability makes everything after
it wrong, so a file that was written on another numeric path is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

import torch

from charladder.environment import describe_machine
from charladder.errors import UserError
from charladder.kernels import native

Path = dict[str, str | int]
_MAX_THREADS = 1024
_PACKAGES = "charladder", "torch", "numpy", "constriction"


def numeric_path(runner: str) -> Path:
    """The numeric path of this process. runner: the name of the class that runs the network."""
    machine, kernels = describe_machine(), native.describe(native.SOURCES)
    return {
        **{name: metadata.version(name) for name in _PACKAGES},
        "runner": runner,
        "kernels": kernels[:10] if native.unavailable_reason() is None else "torch",
        "vectors": machine["capability"],
        "processor": machine["processor"],
        "threads": torch.get_num_threads(),
    }


def check_numeric_path(recorded: Path, runner: str, name: str) -> None:
    """Raises UserError that names the first difference of this process from `recorded`."""
    current = numeric_path(runner)
    for key, value in current.items():
        if recorded.get(key) != value:
            raise UserError(
                f"{name} was compressed with {key} {recorded.get(key)!r}, and here it is {value!r}; decompression must "
                "compute the same bits", rule="decompress it on the machine and with the versions that wrote it"
            )  # fmt: skip


@contextmanager
def threads_of(recorded: Path, name: str) -> Iterator[None]:
    """The recorded number of threads. Raises UserError for one that cannot be."""
    threads, before = recorded.get("threads"), torch.get_num_threads()
    if type(threads) is not int or not 1 <= threads <= _MAX_THREADS:
        raise UserError(f"{name} has no valid number of threads in its header", rule="it is damaged; get it again")
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
