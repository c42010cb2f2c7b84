"""Capture and replay of a training step's forward and backward passes as one CUDA graph.

A deep and narrow network launches ten thousand small kernels a step, and launching them takes longer than running them.
A graph is valid for certain term weights and input shapes. When these change (the weight of a loss becomes 0), the next
step runs eagerly, and the one after it is captured again. If they change at every step, nothing is captured.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from charladder.auxiliary import Report
from charladder.kernels import cuda_graph

StepFunction = Callable[..., Report]  # runs the forward and backward passes on the input tensors


@dataclass
class CapturedStep:
    """A CUDA graph, its inputs, and its outputs: scalars of the report (total, gradient norm, losses) and gradients."""

    graph: Any
    inputs: Sequence[Tensor]
    scalars: Tensor
    report: Report
    gradients: list[tuple[nn.Parameter, Tensor]]


@dataclass
class StepGraph:
    """Captures and replays the passes of a training step. parameters: all parameters, in the order of the optimizers.

    key: what the captured graph depends on, besides its inputs. failure: why a capture failed; nothing is captured
    afterwards. is_replayed: whether the last step replayed a graph that an earlier step captured. eager_bytes: memory
    of an eager step, in addition to weights and optimizer state.
    """

    parameters: Sequence[nn.Parameter]
    key: Hashable = None
    captured: CapturedStep | None = field(default=None, repr=False)
    failure: str | None = None
    is_replayed: bool = False
    eager_bytes: int = 0

    def __call__(self, key: Hashable, inputs: Sequence[Tensor], run: StepFunction) -> tuple[Report, float] | None:
        """Replays both passes. Returns the report, with its numbers on the CPU, and the norm of the gradient, and sets
        `grad` of the parameters. Returns None if there is no graph for `key`: the caller then runs the passes eagerly.

        The gradients of the previous step must have been released.
        """
        self.is_replayed = False
        if self.failure:
            return None
        if key != self.key:
            self.key, self.captured = key, None
            return None
        if self.captured is None:
            device = self.parameters[0].device
            if not self.eager_bytes:
                self.eager_bytes = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
            try:
                self.captured = capture_step(self.parameters, inputs, run)
            except RuntimeError as error:  # includes torch.OutOfMemoryError
                self.failure = str(error).splitlines()[0]
                self.release()
                return None
        else:
            self.is_replayed = True
        captured = self.captured
        for target, source in zip(captured.inputs, inputs, strict=True):
            target.copy_(source)
        captured.graph.replay()
        for parameter, gradient in captured.gradients:
            parameter.grad = gradient
        total, norm, *losses = captured.scalars.cpu()
        terms = {
            name: replace(term, loss=loss)
            for (name, term), loss in zip(captured.report.terms.items(), losses, strict=True)
        }
        return Report(total, terms), float(norm)

    def free_memory_for_eager_step(self) -> None:
        """Releases the captured graph if the free memory is too small for an eager step; call it before one."""
        self.is_replayed = False
        if self.captured is not None and torch.cuda.mem_get_info(self.parameters[0].device)[0] < self.eager_bytes:
            self.release()

    def release(self) -> None:
        """Releases the memory of the captured graph and of the gradients."""
        self.key = self.captured = None
        for parameter in self.parameters:
            parameter.grad = None
        torch.cuda.empty_cache()


def capture_step(parameters: Sequence[nn.Parameter], inputs: Sequence[Tensor], run: StepFunction) -> CapturedStep:
    """Captures `run` on copies of `inputs`. Raises RuntimeError if memory or an operation does not allow it."""
    inputs = [tensor.clone() for tensor in inputs]

    def clear_gradients() -> None:
        for parameter in parameters:
            parameter.grad = None  # so that the graph overwrites gradients instead of accumulating them

    def run_passes() -> tuple[Report, list[tuple[nn.Parameter, Tensor]], Tensor]:
        report = run(*inputs)
        gradients = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([gradient for _, gradient in gradients])
        losses = [term.loss for term in report.terms.values()]
        return report, gradients, torch.stack([scalar.detach().float() for scalar in (report.total, norm, *losses)])

    graph, (report, gradients, scalars) = cuda_graph.capture(run_passes, inputs[0].device, clear_gradients)
    return CapturedStep(graph, inputs, scalars, Report(report.total.detach(), report.terms), gradients)
