"""DETR's losses at every layer of the decoder, against transformers' and against the formula written by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from charladder import auxiliary as aux

CLASSES, QUERIES, WIDTH = 3, 5, 8


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.classes, self.boxes = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES + 1), nn.Linear(WIDTH, 4)

    def forward(self, x):
        x = self.norm(x)
        return self.classes(x), self.boxes(x).sigmoid()


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(3))
        self.head = Head()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def match(logits, boxes, targets):
    """The assignment of the least cost."""
    linear_sum_assignment = pytest.importorskip("scipy.optimize").linear_sum_assignment
    pairs = []
    for image, target in enumerate(targets):
        other = target["boxes"]
        cost = 5 * torch.cdist(boxes[image], other, p=1) - logits[image].softmax(-1)[:, target["class_labels"]]
        for query in range(len(cost)):
            for index in range(len(other)):
                cost[query, index] -= 2 * giou_by_hand(boxes[image, query], other[index])
        rows, columns = linear_sum_assignment(cost.numpy())
        pairs.append((torch.as_tensor(rows), torch.as_tensor(columns)))
    return pairs


def giou_by_hand(one, other):
    x0, y0, x1, y1 = one[0] - one[2] / 2, one[1] - one[3] / 2, one[0] + one[2] / 2, one[1] + one[3] / 2
    u0, v0, u1, v1 = other[0] - other[2] / 2, other[1] - other[3] / 2, other[0] + other[2] / 2, other[1] + other[3] / 2
    width, height = torch.minimum(x1, u1) - torch.maximum(x0, u0), torch.minimum(y1, v1) - torch.maximum(y0, v0)
    overlap = width.clamp(min=0) * height.clamp(min=0)
    union = one[2] * one[3] + other[2] * other[3] - overlap
    around = (torch.maximum(x1, u1) - torch.minimum(x0, u0)) * (torch.maximum(y1, v1) - torch.minimum(y0, v0))
    return overlap / union - (around - union) / around


@pytest.fixture
def data():
    torch.manual_seed(4)
    targets = [
        {"class_labels": torch.tensor([0, 2]), "boxes": 0.2 + 0.4 * torch.rand(2, 4)},
        {"class_labels": torch.empty(0, dtype=torch.long), "boxes": torch.empty(0, 4)},
        {"class_labels": torch.tensor([1, 1, 0]), "boxes": 0.2 + 0.4 * torch.rand(3, 4)},
    ]
    return Detector(), torch.randn(3, QUERIES, WIDTH), targets


def detector_objective(model, **fields):
    return aux.Objective(
        **aux.presets.detr_decoder(model, "layers.*", model.head, match, queries=QUERIES, **fields), model=model
    )


def outputs_of_layers(model, x):
    found = []
    for layer in model.layers:
        x = layer(x)
        found.append(model.head(x))
    return found


def parts_by_hand(logits, boxes, targets):
    """Image by image and query by query."""
    classes, weights, box, giou = 0.0, 0.0, 0.0, 0.0
    for image, (rows, columns) in enumerate(match(logits.detach(), boxes.detach(), targets)):
        chosen = dict(zip(rows.tolist(), columns.tolist(), strict=True))
        for query in range(QUERIES):
            label = targets[image]["class_labels"][chosen[query]] if query in chosen else torch.tensor(CLASSES)
            weight = 1.0 if query in chosen else 0.1
            classes = classes - weight * logits[image, query].log_softmax(-1)[label]
            weights += weight
            if query in chosen:
                other = targets[image]["boxes"][chosen[query]]
                box = box + (boxes[image, query] - other).abs().sum()
                giou = giou + 1 - giou_by_hand(boxes[image, query], other)
    return {"class": classes / weights, "box": box / 5, "giou": giou / 5}


def assert_same_gradients(one, other, parameters):
    found, wanted = torch.autograd.grad(one, parameters), torch.autograd.grad(other, parameters)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_all_layers_match_the_formula(data):
    model, x, targets = data
    report = detector_objective(model)(model, x, targets)
    assert list(report.terms) == ["main", "layer1", "layer2"]
    names = ["layer1", "layer2", "main"]
    by_hand = {
        name: parts_by_hand(*output, targets) for name, output in zip(names, outputs_of_layers(model, x), strict=True)
    }
    for name, parts in by_hand.items():
        for part, value in parts.items():
            assert report.terms[name].parts[part].value == pytest.approx(value.item(), rel=1e-5)
    total = sum(parts["class"] + 5 * parts["box"] + 2 * parts["giou"] for parts in by_hand.values())
    torch.testing.assert_close(report.total, total)
    assert_same_gradients(report.total, total, list(model.parameters()))


@pytest.mark.slow  # imports transformers
def test_all_layers_match_the_loss_of_transformers(data):
    module = pytest.importorskip("transformers.loss.loss_for_object_detection")
    model, x, targets = data
    report = detector_objective(model)(model, x, targets)
    classes, places = (torch.stack(several) for several in zip(*outputs_of_layers(model, x), strict=True))
    config = SimpleNamespace(
        class_cost=1, bbox_cost=5, giou_cost=2, num_labels=CLASSES, eos_coefficient=0.1, auxiliary_loss=True,
        bbox_loss_coefficient=5, giou_loss_coefficient=2, decoder_layers=3,
    )  # fmt: skip
    total, _, _ = module.ForObjectDetectionLoss(classes[-1], targets, "cpu", places[-1], config, classes, places)
    torch.testing.assert_close(report.total, total)
    assert_same_gradients(report.total, total, list(model.parameters()))


def test_micro_batches_sum_to_the_full_batch(data):
    """The second image has no object."""
    model, x, targets = data
    objective = detector_objective(model)
    whole = objective(model, x, targets)
    counts = objective.counts([targets[:1], targets[1:2], targets[2:]])
    assert counts["layer1"] == {"class": pytest.approx(6.0), "box": 5, "giou": 5}
    reports = [objective(model, x[at : at + 1], targets[at : at + 1], counts=counts) for at in range(3)]
    total = sum(report.total for report in reports)
    torch.testing.assert_close(total, whole.total)
    assert_same_gradients(total, whole.total, list(model.parameters()))
    merged = aux.merge(reports).terms["layer1"]
    for name, part in whole.terms["layer1"].parts.items():
        assert merged.parts[name].value == pytest.approx(part.value, rel=1e-5)


def test_batch_without_objects_trains_the_classifier_alone(data):
    model, x, targets = data
    report = detector_objective(model)(model, x[1:2], targets[1:2])
    report.total.backward()
    assert report.terms["layer1"].parts["box"].value == 0
    assert model.head.boxes.weight.grad.eq(0).all() and model.head.classes.weight.grad.abs().sum() > 0


def test_predictions_of_a_model_that_returns_those_of_all_layers(data):
    model, x, targets = data
    outputs = [{"logits": logits, "pred_boxes": boxes} for logits, boxes in outputs_of_layers(model, x)]
    terms = {f"layer{n + 1}": aux.presets.detr_term(match, select=("auxiliary_outputs", n)) for n in range(2)}
    objective = aux.Objective(aux.presets.detr_term(match, select=lambda output: output), terms)
    report = objective.from_output(outputs[-1] | {"auxiliary_outputs": outputs[:-1]}, targets)
    torch.testing.assert_close(report.total, detector_objective(model)(model, x, targets).total)


def test_matching_of_too_few_images_is_refused(data):
    model, x, targets = data
    group = aux.presets.detr_decoder(model, "layers.*", model.head, lambda logits, boxes, targets: [])
    with pytest.raises(aux.AuxiliaryError, match="match returned 0 pairs for 3 images; return one for each"):
        aux.Objective(**group)(model, x, targets)


@pytest.mark.parametrize("label", [CLASSES, CLASSES + 1, -100])
def test_label_that_is_no_class_is_refused(data, label):
    """CLASSES is the class of "no object", with its own weight; cross_entropy leaves out -100."""
    model, x, targets = data
    targets[2]["class_labels"][1] = label
    with pytest.raises(aux.AuxiliaryError, match=rf"term 'main'.*: an object has the label {label}, and the head"):
        detector_objective(model)(model, x, targets)


def test_generalized_iou_of_separate_and_equal_boxes():
    one, other = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([2.0, 0.0, 3.0, 1.0])
    assert aux.presets.generalized_iou(one, one).item() == 1
    assert aux.presets.generalized_iou(one, other).item() == pytest.approx(-1 / 3)
    assert aux.presets.generalized_iou(torch.stack([one, other])[:, None], torch.stack([one, other])).shape == (2, 2)
