"""Gradient accumulation over micro-batches, divided by the count of the full batch."""

import pytest
import torch

from helpers import make_trainer, small


@pytest.mark.parametrize("block", ["modern", "paper"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_four_micro_batches_of_four_equal_one_batch_of_sixteen(prose, block, dropout):
    gradients, reports = [], []
    for micro_batch in (16, 4, 5):
        trainer = make_trainer(prose, small(block=block, dropout=dropout), batch=16, micro_batch=micro_batch)
        reports.append(list(trainer.accumulate_gradients(0.1)))
        gradients.append(
            [p.grad for p in [*trainer.network.parameters(), *trainer.objective.parameters()] if p.grad is not None]
        )
    assert [len(report) for report in reports] == [1, 4, 4]
    for accumulated in gradients[1:]:
        for expected, gradient in zip(gradients[0], accumulated, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_reported_terms_are_those_of_the_full_batch(prose):
    one = make_trainer(prose, batch=16).step().report
    four = make_trainer(prose, batch=16, micro_batch=4).step().report
    assert float(four.total) == pytest.approx(float(one.total), rel=1e-5)
    for name, term in one.terms.items():
        assert four.terms[name].value == pytest.approx(term.value, rel=1e-5)
        assert four.terms[name].count == term.count == 16 * 16
