"""Auxiliary losses for any PyTorch model: terms, heads, weights, schedules, diagnosis. Depends only on torch.

from charladder import auxiliary as aux

objective = aux.Objective(
    main=aux.Term(F.cross_entropy),
    auxiliary={"layer4": aux.Term(F.cross_entropy, tap="encoder.layers.4", head=nn.Linear(512, 10), weight=0.3)},
)
report = objective(model, x, targets, progress=step / steps)
report.total.backward()
"""

from charladder.auxiliary import (
    cross_entropy,
    distributed,
    gradients,
    heads,
    losses,
    presets,
    rules,
    schedules,
    weights,
)
from charladder.auxiliary._diagnosis import Diagnosis, by_depth, diagnose, draw_depths
from charladder.auxiliary._errors import AuxiliaryError, NotFiniteError
from charladder.auxiliary._expansion import intermediate_terms
from charladder.auxiliary._explanation import Row, explain, term_name
from charladder.auxiliary._objective import Objective
from charladder.auxiliary._report import Report, TermReport, merge
from charladder.auxiliary._target_sources import frozen, returned, tapped
from charladder.auxiliary._term import Term
from charladder.auxiliary.cross_entropy import linear_cross_entropy

__all__ = [
    "AuxiliaryError",
    "Diagnosis",
    "NotFiniteError",
    "Objective",
    "Report",
    "Row",
    "Term",
    "TermReport",
    "by_depth",
    "cross_entropy",
    "diagnose",
    "distributed",
    "draw_depths",
    "explain",
    "frozen",
    "gradients",
    "heads",
    "intermediate_terms",
    "linear_cross_entropy",
    "losses",
    "merge",
    "presets",
    "returned",
    "rules",
    "schedules",
    "tapped",
    "term_name",
    "weights",
]  # fmt: skip
