"""CUDA graphs: what a function launches on a GPU, recorded once, to be replayed in one go."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def capture(
    run: Callable[[], Result], device: torch.device, ready: Callable[[], object] = lambda: None, pool: Any = None
) -> tuple[Any, Result]:
    """A graph of what `run` launches, and what it returned, whose tensors each replay fills anew.

    It runs once before, for what is made at a first call is not recorded. ready: called before each of the two. pool:
    memory to share with other graphs, which must not run at the same time. Raises RuntimeError where it cannot be: too
    little memory, or work that no graph can hold.
    """
    before, beside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    ready()
    beside.wait_stream(before)
    with torch.cuda.stream(beside):
        run()
    before.wait_stream(beside)
    ready()
    graph = torch.cuda.CUDAGraph()
    try:
        # On a stream of this device, for torch's own is of whichever recorded first. Other threads may go on using the
        # GPU meanwhile: only this one's mistakes count.
        with torch.cuda.graph(graph, pool=pool, stream=beside, capture_error_mode="thread_local"):
            result = run()
    except RuntimeError:
        torch.cuda.set_stream(before)  # which a recording that fails at its end leaves behind
        raise
    return graph, result
