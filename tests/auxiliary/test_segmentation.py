"""Deep supervision of segmentation against sums written by hand, with labels resized by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from charladder import auxiliary as aux

LABELS = torch.randint(0, 3, (2, 8, 12), generator=torch.Generator().manual_seed(1))


class Decoder(nn.Module):
    """Predictions of three classes at 1, 1/2, 1/4 and 1/8 of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = nn.ModuleList(nn.Conv2d(2, 3, 1) for _ in range(4))

    def forward(self, x):
        return [output(F.avg_pool2d(x, 2**place)) for place, output in enumerate(self.outputs)]


def nearest_exact(labels, size):
    """The label at the centre of each cell of the smaller grid."""
    rows = [int((i + 0.5) * labels.shape[1] / size[0]) for i in range(size[0])]
    columns = [int((i + 0.5) * labels.shape[2] / size[1]) for i in range(size[1])]
    return labels[:, rows][:, :, columns]


NNUNET = [4 / 7, 2 / 7, 1 / 7, 0]
GROUPS = {
    "nnunet": (aux.presets.nnunet, {}, NNUNET),
    "monai exp": (aux.presets.monai, {}, [1, 0.5, 0.25, 0.125]),
    "monai same": (aux.presets.monai, {"mode": "same"}, [1, 1, 1, 1]),
    "monai two": (aux.presets.monai, {"mode": "two"}, [1, 0.5, 0.5, 0.5]),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_match_the_sum_written_by_hand(name):
    preset, fields, weights = GROUPS[name]
    torch.manual_seed(2)
    model, x = Decoder(), torch.randn(2, 2, 8, 12)
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2)]  # 1.5 columns are rounded to the even number
    model.outputs[3].register_forward_hook(lambda module, inputs, output: F.interpolate(output, sizes[3]))
    objective = aux.Objective(**preset(F.cross_entropy, scales=4, target="labels", **fields))
    report = objective(model, x, {"labels": LABELS})
    total = sum(
        weight * F.cross_entropy(prediction, nearest_exact(LABELS, size))
        for weight, prediction, size in zip(weights, model(x), sizes, strict=True)
    )
    torch.testing.assert_close(report.total, total)
    parameters = list(model.parameters())
    found = torch.autograd.grad(report.total, parameters, allow_unused=True)
    wanted = torch.autograd.grad(total, parameters, allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(torch.zeros(()) if one is None else one, torch.zeros(()) if one is None else other)
    assert list(report.terms) == ["main", "scale1", "scale2", "scale3"][: 3 if name == "nnunet" else 4]


def test_exponential_weights_of_monai_end_at_a_sixteenth():
    group = aux.presets.monai(F.cross_entropy, scales=6)
    assert [term.weight for term in group["auxiliary"].values()] == [0.5, 0.25, 0.125, 0.0625, 0.0625]


def test_labels_that_are_ignored_are_counted_at_each_scale():
    labels = LABELS.clone()
    labels[0, :, :5] = -100
    objective = aux.Objective(**aux.presets.monai(F.cross_entropy, scales=3))
    counts = objective.counts([labels[:1], labels[1:]])
    assert [int(count) for count in counts.values()] == [
        int((nearest_exact(labels, size) != -100).sum()) for size in ((8, 12), (4, 6), (2, 3))
    ]
    model, x = Decoder(), torch.randn(2, 2, 8, 12)
    predictions = [output[:3] for output in (model(x[:1]), model(x[1:]), model(x))]
    halves = [
        objective.from_output(predictions[half], labels[half : half + 1], counts=counts).total for half in range(2)
    ]
    torch.testing.assert_close(halves[0] + halves[1], objective.from_output(predictions[2], labels).total)


def test_resized_labels_of_all_kinds():
    resize = aux.presets.resize_labels
    wanted = nearest_exact(LABELS, (4, 6))
    assert torch.equal(resize(LABELS, 0.5), wanted)
    assert torch.equal(resize(LABELS[:, None], 0.5), wanted[:, None])
    assert torch.equal(resize(LABELS[:, None].float(), 0.5), wanted[:, None].float())
    assert torch.equal(resize(LABELS, (1, 0.5)), nearest_exact(LABELS, (8, 6)))
    assert resize(LABELS.byte(), 0.25).dtype == torch.uint8
    assert resize(LABELS, 1.0) is LABELS
    assert resize(torch.zeros(2, 8, 8, 8, dtype=torch.long), (0.5, 0.25, 1)).shape == (2, 4, 2, 8)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: aux.presets.monai(F.cross_entropy, 3, "half"), "monai\\(\\) has the mode 'half'; there are exp, same"),
        (
            lambda: aux.presets.deep_supervision(F.cross_entropy, 3, [1, 0.5]),
            "there are 2 weights for 3 scales; give one for each",
        ),
        (
            lambda: aux.Objective(**aux.presets.nnunet(F.cross_entropy, 2)).from_output(
                [torch.ones(1)] * 2, {"y": LABELS}
            ),
            "say which part has the labels with target=",
        ),
    ],
)
def test_mistakes(make, said):
    with pytest.raises(aux.AuxiliaryError, match=said):
        make()
