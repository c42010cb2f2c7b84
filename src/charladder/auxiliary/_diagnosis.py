"""Do the auxiliary losses pull with the main one? Where in the network does any gradient arrive?

`diagnose` measures it at one moment, by one more backward pass for each group of terms; every 50 steps of training
that is some 3% of the time. The gradients that are trained on stay as they are, to the last bit; only what a backward
pass itself changes (batch statistics inside a checkpoint, which runs again) is changed once more.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._report import Report
from charladder.auxiliary._taps import match_modules, named_modules
from charladder.auxiliary._term import MAIN
from charladder.auxiliary._wrappers import unwrap
from charladder.auxiliary.gradients import by_group

Groups = Mapping[str, Iterable[str]] | Callable[[str], str]


@dataclass(frozen=True)
class GradientComparison:
    """One group of auxiliary terms against the main one, over all parameters that were looked at.

    cosine: of the angle between the two gradients: below 0 they pull apart. ratio: the norm of the group's gradient
    over that of the main one. share: what part of the whole gradient g is the group's, g_group . g / g . g; the
    shares of all groups and of the main term add up to 1, and one that pulls against the whole is negative.
    """

    cosine: float
    ratio: float
    share: float


@dataclass(frozen=True)
class Diagnosis:
    """groups: facts by name. main_share: what is left of the whole gradient for the main term.
    without, whole: norms of the gradient of the main term, and of all terms, by depth, in the order that was given.
    """

    groups: dict[str, GradientComparison]
    main_share: float
    main_norms: dict[str, float]
    total_norms: dict[str, float]

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> "Diagnosis":
        """What `as_dict` gave. Raises KeyError, TypeError or ValueError for what it cannot have given."""
        groups = {
            name: GradientComparison(float(facts["cosine"]), float(facts["ratio"]), float(facts["share"]))
            for name, facts in dict(numbers["groups"]).items()
        }
        without, whole = (
            {name: float(norm) for name, norm in dict(numbers[key]).items()}
            for key in ("gradient_norms_without", "gradient_norms")
        )
        if list(without) != list(whole):
            raise ValueError("the two lists of gradient norms are of different depths")
        return cls(groups, float(numbers["main_share"]), without, whole)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {
            "groups": {name: dict(vars(facts)) for name, facts in self.groups.items()},
            "main_share": self.main_share,
            "gradient_norms_without": self.main_norms,
            "gradient_norms": self.total_norms,
        }


def diagnose(report: Report, parameters: Mapping[str, Iterable[Tensor]], groups: Groups | None = None) -> Diagnosis:
    """Measures a report before its `backward`.

    parameters: by depth, in order (`by_depth(model, "layers.*")`). groups: names of terms by group, or a function from
    a term's name to its group; every auxiliary term is a group of its own when None.
    Raises AuxiliaryError under FSDP2, and after `backward`.
    """
    depths = {name: [p for p in several if p.requires_grad] for name, several in parameters.items()}
    depths = {name: several for name, several in depths.items() if several}
    names = [name for name in report.parts if name != MAIN]
    if groups is None or callable(groups):
        sorted_names: dict[str, list[str]] = {}
        for name in names:
            sorted_names.setdefault(groups(name) if groups else name, []).append(name)
    else:
        sorted_names = {group: [n for n in members if n in names] for group, members in groups.items()}
    if not depths:
        raise AuxiliaryError("there are no parameters to look at: none were given, or all are frozen")
    wanted = {MAIN: [MAIN]} | {group: members for group, members in sorted_names.items() if members}
    flat = [parameter for several in depths.values() for parameter in several]
    gradients = by_group(report, flat, wanted)
    main = gradients.pop(MAIN)
    whole = sum(gradients.values(), main)
    facts = {name: compare(gradient, main, whole) for name, gradient in gradients.items()}
    return Diagnosis(facts, compare(main, main, whole).share, by_part(main, depths), by_part(whole, depths))


def compare(gradient: Tensor, main: Tensor, whole: Tensor) -> GradientComparison:
    """A silent side has no direction: its cosine, ratio or share is 0."""
    own, other = float(gradient.norm()), float(main.norm())
    squared = float(whole.dot(whole))
    cosine = float(gradient.dot(main)) / (own * other) if own and other else 0.0
    return GradientComparison(
        cosine, own / other if other else 0.0, float(gradient.dot(whole)) / squared if squared else 0.0
    )


def by_part(gradient: Tensor, depths: Mapping[str, list[Tensor]]) -> dict[str, float]:
    """Norms of the pieces of a flat gradient."""
    sizes = [sum(parameter.numel() for parameter in several) for several in depths.values()]
    return {name: float(piece.norm()) for name, piece in zip(depths, torch.split(gradient, sizes), strict=True)}


def by_depth(model: nn.Module, pattern: str) -> dict[str, list[nn.Parameter]]:
    """The parameters of each module that fits a pattern (`encoder.layers.*`), by its name, in the model's order."""
    base = unwrap(model, [pattern])
    modules = named_modules(base)
    return {name: list(modules[name].parameters()) for name in match_modules(base, pattern, "by_depth()")}


def draw_depths(axes: Any, diagnoses: Iterable[Diagnosis]) -> None:
    """The picture of vanishing gradients, on matplotlib's axes: the mean norm by depth, with and without."""
    several = list(diagnoses)
    names = list(several[0].total_norms)
    several = [one for one in several if list(one.total_norms) == names]
    for label, style, colour, pick in (
        ("all terms", "o-", "#0072b2", lambda one: one.total_norms),
        ("main term alone", "s--", "#d55e00", lambda one: one.main_norms),
    ):
        means = [sum(pick(one)[name] for one in several) / len(several) for name in names]
        axes.plot(range(1, len(names) + 1), means, style, label=label, color=colour)
    axes.set(yscale="log", xlabel="depth", ylabel="gradient norm")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
