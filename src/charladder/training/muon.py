"""Muon (Jordan et al. 2024): momentum whose matrix updates are made nearly orthogonal by Newton-Schulz steps.

The updates are those of torch.optim.Muon. This implementation differs in two ways: matrices of equal shape are
orthogonalised as one batch, and the dtype of the iteration can be chosen (torch always uses bfloat16, which processors
without bfloat16 emulate 30 times slower). Shapes: N equal matrices of R rows and C columns.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(x_NRC: Tensor, dtype: torch.dtype | None = None, steps: int = 5) -> Tensor:
    """Pushes the singular values of each matrix towards 1, by Newton-Schulz iterations in `dtype` (None: that of x)."""
    a, b, c = _NEWTON_SCHULZ_COEFFICIENTS
    is_tall = x_NRC.shape[1] > x_NRC.shape[2]
    y = (x_NRC.mT if is_tall else x_NRC).to(dtype or x_NRC.dtype)
    y = y / y.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return (y.mT if is_tall else y).to(x_NRC.dtype)


class Muon(torch.optim.Optimizer):
    """The optimizer for the 2-D parameters of the layers, but not for embeddings or classifiers."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for (rows, columns), parameters in shapes.items():
                updates_NRC = torch.stack(
                    [self._nesterov_update(parameter, group["momentum"]) for parameter in parameters]
                )
                updates_NRC = orthogonalise(updates_NRC, self.dtype)
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for parameter, update_RC in zip(parameters, updates_NRC, strict=True):
                    if group["weight_decay"]:
                        parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update_RC, alpha=scale)

    def _nesterov_update(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Updates the running mean of the gradient; returns the gradient interpolated with it (Nesterov momentum)."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)
