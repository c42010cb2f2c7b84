"""Gradients of auxiliary terms compared with those of the main term, and gradient norms by depth.

`diagnose` measures one step, with one more backward pass for each group of terms; called every 50 steps, it takes about
3% of the time of training. The gradients of training stay bitwise the same. State that a backward pass changes (batch
statistics of a checkpointed module, whose forward pass runs again) changes once more.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._modules import match_modules, named_modules
from charladder.auxiliary._report import Report
from charladder.auxiliary._select import is_mapping
from charladder.auxiliary._term import MAIN
from charladder.auxiliary._wrappers import unwrap
from charladder.auxiliary.gradients import by_group

Groups = Mapping[str, Iterable[str]] | Callable[[str], str]


@dataclass(frozen=True)
class GradientComparison:
    """The gradient of one group of auxiliary terms compared with that of the main term, over all given parameters.

    cosine: of the angle between the two gradients; below 0 they point against each other. ratio: the norm of the
    group's gradient over that of the main one. share: the part of the total gradient g that is the group's,
    g_group . g / g . g; the shares of all groups and of the main term add up to 1, and one against g is negative.
    """

    cosine: float
    ratio: float
    share: float


@dataclass(frozen=True)
class Diagnosis:
    """groups: comparisons by name. main_share: the share of the main term in the total gradient.
    main_norms, total_norms: norms of the gradients of the main term, and of all terms, by depth, in the given order.
    """

    groups: dict[str, GradientComparison]
    main_share: float
    main_norms: dict[str, float]
    total_norms: dict[str, float]

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> "Diagnosis":
        """The inverse of `as_dict`. Raises KeyError, TypeError or ValueError for other dictionaries."""
        groups = {
            str(name): GradientComparison(float(one["cosine"]), float(one["ratio"]), float(one["share"]))
            for name, one in dict[Any, Any](numbers["groups"]).items()
        }
        main_norms, total_norms = (
            {str(name): float(norm) for name, norm in dict[Any, Any](numbers[key]).items()}
            for key in ("gradient_norms_without", "gradient_norms")
        )
        if list(main_norms) != list(total_norms):
            raise ValueError("the two lists of gradient norms have different depths")
        return cls(groups, float(numbers["main_share"]), main_norms, total_norms)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {
            "groups": {name: dict(vars(comparison)) for name, comparison in self.groups.items()},
            "main_share": self.main_share,
            "gradient_norms_without": self.main_norms,
            "gradient_norms": self.total_norms,
        }


def diagnose(
    report: Report, parameters: Mapping[str, Iterable[Tensor] | Tensor], groups: Groups | None = None
) -> Diagnosis:
    """Measures a report before its `backward`.

    parameters: by depth, in order (`by_depth(model, "layers.*")`), several or one by each name. groups: names of terms
    by group, or a function from a term's name to its group; every auxiliary term is a group of its own when None.
    Raises AuxiliaryError under FSDP2, and after `backward`.

    >>> from charladder import auxiliary as aux
    >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> loss, head = nn.functional.cross_entropy, nn.Linear(8, 3)
    >>> objective = aux.Objective(aux.Term(loss), {"early": aux.Term(loss, tap="0", head=head)})
    >>> report = objective(model, torch.randn(4, 8), torch.tensor([0, 1, 2, 0]))
    >>> diagnosis = aux.diagnose(report, aux.by_depth(model, "*"))
    >>> list(diagnosis.groups), list(diagnosis.total_norms)
    (['early'], ['0', '2'])
    """
    if not is_mapping(parameters):
        raise AuxiliaryError(
            f"diagnose takes groups of parameters by name, and got {type(parameters).__name__}; give "
            'by_depth(model, "layers.*"), or a dict'
        )
    lists = {name: [one] if isinstance(one, Tensor) else list(one) for name, one in parameters.items()}
    depths = {name: [p for p in tensors if p.requires_grad] for name, tensors in lists.items()}
    depths = {name: tensors for name, tensors in depths.items() if tensors}
    if not depths:
        raise AuxiliaryError("there are no parameters to diagnose: none were given, or all are frozen")
    names = [name for name in report.parts if name != MAIN]
    members: dict[str, list[str]] = {MAIN: [MAIN]}
    if groups is None or callable(groups):
        for name in names:
            members.setdefault(groups(name) if groups else name, []).append(name)
    else:
        present = {group: [name for name in several if name in names] for group, several in groups.items()}
        members |= {group: several for group, several in present.items() if several}
    gradients = by_group(report, [parameter for tensors in depths.values() for parameter in tensors], members)
    main = gradients.pop(MAIN)
    total = sum(gradients.values(), main)
    comparisons = {name: _compare(gradient, main, total) for name, gradient in gradients.items()}
    share = _compare(main, main, total).share
    return Diagnosis(comparisons, share, _norms_by_depth(main, depths), _norms_by_depth(total, depths))


def _compare(gradient: Tensor, main: Tensor, total: Tensor) -> GradientComparison:
    """Numbers that would be divided by 0 are 0."""
    norm, main_norm = _norm(gradient), _norm(main)
    squared = float(total.dot(total))
    cosine = float(gradient.dot(main)) / (norm * main_norm) if norm and main_norm else 0.0
    share = float(gradient.dot(total)) / squared if squared else 0.0
    return GradientComparison(cosine, norm / main_norm if main_norm else 0.0, share)


def _norms_by_depth(gradient: Tensor, depths: Mapping[str, list[Tensor]]) -> dict[str, float]:
    """Norms of the pieces of a flat gradient."""
    sizes = [sum(parameter.numel() for parameter in tensors) for tensors in depths.values()]
    return {name: _norm(piece) for name, piece in zip(depths, torch.split(gradient, sizes), strict=True)}


def _norm(gradient: Tensor) -> float:
    return float(cast("Tensor", gradient.norm()))


def by_depth(model: nn.Module, pattern: str) -> dict[str, list[nn.Parameter]]:
    """The parameters of each module that matches a pattern (`encoder.layers.*`), by its name, in the model's order."""
    base = unwrap(model, [pattern])
    modules = named_modules(base)
    return {name: list(modules[name].parameters()) for name in match_modules(base, pattern, "by_depth()")}


def draw_depths(axes: Any, diagnoses: Iterable[Diagnosis]) -> None:
    """Draws mean gradient norms by depth, of all terms and of the main term alone, on matplotlib's axes."""
    several = list(diagnoses)
    names = list(several[0].total_norms)
    several = [one for one in several if list(one.total_norms) == names]
    for label, style, colour, norms in (
        ("all terms", "o-", "#0072b2", [one.total_norms for one in several]),
        ("main term alone", "s--", "#d55e00", [one.main_norms for one in several]),
    ):
        means = [sum(one[name] for one in norms) / len(norms) for name in names]
        axes.plot(range(1, len(names) + 1), means, style, label=label, color=colour)
    axes.set(yscale="log", xlabel="depth", ylabel="gradient norm")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
