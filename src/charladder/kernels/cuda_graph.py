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
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    ready()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        run()
    current.wait_stream(side)
    ready()
    graph = torch.cuda.CUDAGraph()
    try:
        # stream: torch's default capture stream belongs to the device that captured first. thread_local: only errors of
        # this thread fail the capture, so other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            result = run()
    except RuntimeError:
        torch.cuda.set_stream(current)  # a failed capture may leave its own stream current
        raise
    return graph, result
