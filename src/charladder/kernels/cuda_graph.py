"""CUDA graphs: the kernels that a function launches are captured once, and replayed with one launch."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def capture(
    run: Callable[[], Result], device: torch.device, ready: Callable[[], object] = lambda: None, pool: Any = None
) -> tuple[Any, Result]:
    """Captures `run` as a graph. Returns the graph and the result of `run`, whose tensors each replay overwrites.

    `run` is called once before the capture, because a first call may allocate what must not be captured. ready: called
    before each of the two calls. pool: memory shared with other graphs, which must not run at the same time. Raises
    RuntimeError where the capture fails: too little memory, or an operation that graphs do not support.
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
