"""The objective of the language model against the same losses written out without the library: bitwise."""

import math

import pytest
import torch
import torch.nn.functional as F

from charladder.auxiliary import Report, TermReport, term_name
from charladder.objective import LanguageModelObjective, ObjectiveConfig, head_key, term_weights
from helpers import PROSE, make_trainer, small


class ByHand(LanguageModelObjective):
    """The same heads; one loop, one sum."""

    def forward(self, model, windows_BTK, progress, examples=None, dropout=None, step=0, separate_gradients=False):
        settings, K = self.settings, self.settings.targets
        B, T = windows_BTK.shape[0], windows_BTK.shape[1] - K
        weights = {p: w for p, w in term_weights(settings, self.layers, progress, step).items() if w > 0}
        output = model(windows_BTK[:, :T], output_hidden={layer for layer, _ in weights}, dropout=dropout)
        inputs = {layer: self.head_input(model, layer, hidden) for layer, hidden in output.hidden.items()}
        total, terms = torch.zeros(()), {}
        for (layer, k), weight in weights.items():
            source = self.layers if settings.intermediate_heads == "shared" else layer
            main = (layer, k) == (self.layers, 1)
            head = model.output if (source, k) == (self.layers, 1) else self.heads[head_key(source, k)]
            logits = output.logits_BTV if main else head(inputs[layer])
            loss = F.cross_entropy(logits.flatten(0, 1), windows_BTK[:, k : T + k].flatten(), reduction="sum")
            total = total + loss * (weight / ((examples or B) * T))
            terms[term_name(layer, k, self.layers)] = TermReport(loss.detach(), B * T, weight)
        return Report(total, terms)


CASES = {
    "ladder": {},
    "fade, mean": {
        "objective": ObjectiveConfig(intermediate_schedule="fade", intermediate_reduction="mean", target_end=0.6)
    },
    "tied": {"objective": ObjectiveConfig(intermediate_heads="shared", targets=3), "optimizer": "adamw"},
    "paper": {"model": small(block="paper", dropout=0.2), "optimizer": "momentum", "momentum": 0.9, "micro_batch": 2},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_curve_is_bitwise_that_of_the_losses_by_hand(case, dtype):
    settings = {"steps": 12, "diagnose_every": 0} | CASES[case]
    one, other = (make_trainer((PROSE * 5).encode(), dtype=dtype, **settings) for _ in range(2))
    other.objective.__class__ = ByHand
    for _ in range(12):
        mine, theirs = one.step().report, other.step().report
        assert float(mine.total).hex() == float(theirs.total).hex()
        assert {n: t.value for n, t in mine.terms.items()} == {n: t.value for n, t in theirs.terms.items()}
    pairs = zip([*one.network.parameters(), *one.objective.parameters()],
                [*other.network.parameters(), *other.objective.parameters()], strict=True)  # fmt: skip
    assert all(torch.equal(a, b) for a, b in pairs)
    assert math.isfinite(float(mine.total))
