"""Capture and replay of a training step's forward and backward passes as one CUDA graph.

A deep and narrow network launches ten thousand small kernels a step, and launching them takes longer than running them.
A graph is valid for certain term weights and input shapes. When these change (a layer's loss ends), the next step runs
eagerly, and the one after it is captured again. Where they change at every step, nothing is captured.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from charladder.auxiliary import Report
from charladder.kernels import cuda_graph

StepFunction = Callable[..., Report]  # of inputs: both passes


@dataclass
class CapturedStep:
    """A graph; what it reads and where it leaves the numbers of its report and the gradients."""

    graph: Any
    inputs: Sequence[Tensor]
    scalars: Tensor
    report: Report
    gradients: list[tuple[nn.Parameter, Tensor]]


@dataclass
class StepGraph:
    """For the passes of one training. parameters: all that may get a gradient, in the order of the optimizers.

    failed: why nothing is recorded any more, where that has been tried in vain. replayed: whether the last passes were,
    from a recording that was there before.
    """

    parameters: Sequence[nn.Parameter]
    key: Hashable = None
    captured: CapturedStep | None = field(default=None, repr=False)
    failure: str | None = None
    is_replayed: bool = False
    eager_bytes: int = 0  # bytes of passes as they are, beside what stays

    def __call__(self, key: Hashable, inputs: Sequence[Tensor], run: StepFunction) -> tuple[Report, float] | None:
        """Both passes, replayed: the report, whose numbers are on the CPU, and the norm of the gradient, which lies
        where it always does. None where there is no recording for this key: then take the passes as they are.

        Gradients of before must be gone.
        """
        self.is_replayed = False
        if self.failure:
            return None
        if key != self.key:
            self.key, self.captured = key, None
            return None
        if self.captured is None:
            on = self.parameters[0].device
            self.eager_bytes = self.eager_bytes or torch.cuda.max_memory_allocated(on) - torch.cuda.memory_allocated(on)
            try:
                self.captured = capture_step(self.parameters, inputs, run)
            except RuntimeError as error:  # out of memory is one
                self.failure = str(error).splitlines()[0]
                self.release()
                return None
        else:
            self.is_replayed = True
        made = self.captured
        for kept, new in zip(made.inputs, inputs, strict=True):
            kept.copy_(new)
        made.graph.replay()
        for parameter, gradient in made.gradients:
            parameter.grad = gradient
        total, norm, *losses = made.scalars.cpu()
        terms = {
            name: replace(term, loss=loss) for (name, term), loss in zip(made.report.terms.items(), losses, strict=True)
        }
        return Report(total, terms), float(norm)

    def free_memory_for_eager_step(self) -> None:
        """Before passes that are taken as they are: lets go of a recording beside which they may not fit."""
        self.is_replayed = False
        if self.captured is not None and torch.cuda.mem_get_info(self.parameters[0].device)[0] < self.eager_bytes:
            self.release()

    def release(self) -> None:
        """Gives back the memory of a recording, and gradients with it."""
        self.key = self.captured = None
        for parameter in self.parameters:
            parameter.grad = None
        torch.cuda.empty_cache()


def capture_step(parameters: Sequence[nn.Parameter], inputs: Sequence[Tensor], run: StepFunction) -> CapturedStep:
    """Raises RuntimeError where it cannot be: too little memory, or work that no graph can hold."""
    own = [tensor.clone() for tensor in inputs]

    def ready() -> None:
        for parameter in parameters:
            parameter.grad = None  # a graph then makes gradients, and does not add to them

    def passes() -> tuple[Report, list[tuple[nn.Parameter, Tensor]], Tensor]:
        report = run(*own)
        gradients = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([gradient for _, gradient in gradients])
        losses = [term.loss for term in report.terms.values()]
        return report, gradients, torch.stack([one.detach().float() for one in (report.total, norm, *losses)])

    graph, (report, gradients, numbers) = cuda_graph.capture(passes, inputs[0].device, ready)
    return CapturedStep(graph, own, numbers, Report(report.total.detach(), report.terms), gradients)
