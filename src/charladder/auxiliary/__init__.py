"""Auxiliary losses for any PyTorch model: terms, heads, weights, schedules, diagnosis. Imports torch alone.

from charladder import auxiliary as aux

objective = aux.Objective(
    main=aux.Term(F.cross_entropy),
    auxiliary={"layer4": aux.Term(F.cross_entropy, tap="encoder.layers.4", head=nn.Linear(512, 10), weight=0.3)},
)
report = objective(model, x, targets, progress=step / steps)
report.total.backward()
"""

from charladder.auxiliary import gradients, heads, presets, rules, schedules
from charladder.auxiliary.diagnosis import Diagnosis, by_depth, diagnose, draw_depths
from charladder.auxiliary.errors import AuxiliaryError, NotFiniteError
from charladder.auxiliary.expansion import rungs
from charladder.auxiliary.explanation import Row, explain
from charladder.auxiliary.fused import linear_cross_entropy
from charladder.auxiliary.objective import Objective
from charladder.auxiliary.report import Report, TermReport, merge
from charladder.auxiliary.term import Term

__all__ = [
    "AuxiliaryError", "Diagnosis", "NotFiniteError", "Objective", "Report", "Row", "Term", "TermReport",
    "by_depth", "diagnose", "draw_depths", "explain", "gradients", "heads", "linear_cross_entropy", "merge", "presets",
    "rules", "rungs", "schedules",
]  # fmt: skip
