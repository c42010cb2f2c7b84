"""DETR: a set of predicted boxes, matched to the objects of each image, at every layer of the decoder.

Letters of shapes: B images, Q queries, C classes. A prediction has logits (B, Q, C + 1), whose last class means "no
object", and boxes (B, Q, 4) as centre x, centre y, width and height, relative to the image. The targets are a list of
one mapping for each image: `labels` (or `class_labels`) with the class of each object, and `boxes` (objects, 4).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._modules import match_modules
from charladder.auxiliary._select import is_mapping, part_names
from charladder.auxiliary._term import MAIN, Term
from charladder.auxiliary._wrappers import unwrap
from charladder.auxiliary.presets._arguments import checked
from charladder.auxiliary.weights import Weight

# match(logits, boxes, targets): for each image, the indices of queries, and those of the objects that they match.
Match = Callable[[Tensor, Tensor, Any], Sequence[tuple[Tensor, Tensor]]]
PARTS = {"class": 1.0, "box": 5.0, "giou": 2.0}


@checked
def detr_term(match: Match, *, no_object: float = 0.1, queries: int | None = None, **fields: Any) -> Term:
    """The loss of one prediction of DETR, in three parts: class, 5 * box, and 2 * giou.

    Carion et al. 2020, "End-to-End Object Detection with Transformers", section 3.1 and appendix A.2.
    class: the cross-entropy of all queries; those without an object have the weight `no_object`, and the sum is divided
    by the sum of the weights. box: the L1 distance of matched boxes; giou: 1 - their generalised IoU (Rezatofighi et
    al. 2019); both divided by the number of objects.
    match: finds the queries that match the objects of each image, without gradients; the paper takes the assignment of
    the least cost (scipy.optimize.linear_sum_assignment). The prediction is a pair (logits, boxes), or a mapping or
    output with `logits` and `pred_boxes`. queries: their number, for `objective.counts`. fields: of the Term.
    In a call it raises AuxiliaryError for a label that is not one of the C classes, such as that of "no object".
    """
    loss = partial(_detr_loss, match=match, no_object=no_object)
    defaults: dict[str, Any] = {"parts": PARTS}
    if not fields.keys() & {"tap", "head"}:
        defaults["select"] = ()  # the whole output of the model
    if queries is not None:
        defaults["count"] = partial(_count_parts, queries=queries, no_object=no_object)
    return Term(loss, **(defaults | fields))


@checked
def detr_decoder(
    model: nn.Module,
    layers: str,
    head: nn.Module,
    match: Match,
    *,
    weight: Weight = "detr",
    no_object: float = 0.1,
    queries: int | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """`detr_term` at every layer of the decoder, with a matching for each and one shared head.

    Returns `main` and `auxiliary` for an objective: `aux.Objective(**aux.presets.detr_decoder(...))`; the terms are
    `main`, the last layer, and `layer1`, `layer2` ...
    Carion et al. 2020, section 3.2: the layers share the classifier, the box MLP and the norm before them, and their
    losses have weight 1.
    Found: with these losses, 8.2 AP more after the last layer than after the first (section 4.2 there).
    layers: the names of the decoder's layers, a pattern such as `decoder.layers.*`. head: turns what a layer returns
    (its first part) into a pair (logits, boxes); it may have modules of the model. weight: of the layers below the
    last. match, no_object, queries, fields: as in `detr_term`.
    Raises AuxiliaryError if no module matches.
    """
    one = detr_term(match, no_object=no_object, queries=queries, head=head, **fields)
    *lower, last = match_modules(unwrap(model, [layers]), layers, "detr_decoder()")
    auxiliary = {
        f"layer{layer}": dataclasses.replace(one, tap=tap, weight=weight, layer=layer, layers=len(lower) + 1)
        for layer, tap in enumerate(lower, 1)
    }
    return {MAIN: dataclasses.replace(one, tap=last), "auxiliary": auxiliary}


def _detr_loss(prediction: Any, targets: Sequence[Mapping[str, Tensor]], *, match: Match, no_object: float) -> Any:
    logits, boxes = _logits_and_boxes(prediction)
    none = logits.shape[-1] - 1
    _check_labels([_labels_of(target) for target in targets], none)
    with torch.no_grad():
        pairs = match(logits, boxes, targets)
    if len(pairs) != len(targets):
        raise AuxiliaryError(f"match returned {len(pairs)} pairs for {len(targets)} images; return one for each")
    labels = torch.full(logits.shape[:2], none, device=logits.device)
    found: list[Tensor] = []
    wanted: list[Tensor] = []
    for image, (queries, objects) in enumerate(pairs):
        labels[image, queries] = _labels_of(targets[image])[objects]
        found.append(boxes[image, queries])
        wanted.append(targets[image]["boxes"][objects])
    weight = logits.new_ones(none + 1)
    weight[none] = no_object
    objects, matched = sum(len(_labels_of(one)) for one in targets), sum(len(one) for one in found)
    one, other = torch.cat(found), torch.cat(wanted).to(boxes.dtype)
    return {
        "class": (
            F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight, reduction="sum"),
            matched + no_object * (labels.numel() - matched),
        ),
        "box": (F.l1_loss(one, other, reduction="sum"), objects),
        "giou": ((1 - generalized_iou(_corners(one), _corners(other))).sum(), objects),
    }


def _logits_and_boxes(prediction: Any) -> tuple[Tensor, Tensor]:
    if is_mapping(prediction):
        return prediction["logits"], prediction["pred_boxes"]
    if "pred_boxes" in part_names(prediction):
        return prediction.logits, prediction.pred_boxes
    logits, boxes = prediction
    return logits, boxes


def _labels_of(target: Mapping[str, Tensor]) -> Tensor:
    return target["labels"] if "labels" in target else target["class_labels"]


def _check_labels(labels: list[Tensor], classes: int) -> None:
    if not labels or torch.compiler.is_compiling():
        return
    every = torch.cat(labels)  # one read for all images, also on an accelerator: `match` reads there too
    wrong = every[(every < 0) | (every >= classes)]
    if len(wrong):
        raise AuxiliaryError(
            f"an object has the label {int(wrong[0])}, and the head has the classes 0 to {classes - 1} and one for "
            '"no object"; give a label of these classes, or a head with one more'
        )


def _count_parts(targets: Sequence[Mapping[str, Tensor]], *, queries: int, no_object: float) -> dict[str, float]:
    """What each part is divided by, from the targets alone."""
    objects = [len(_labels_of(target)) for target in targets]
    matched = sum(min(queries, number) for number in objects)
    return {
        "class": matched + no_object * (queries * len(targets) - matched), "box": sum(objects), "giou": sum(objects),
    }  # fmt: skip


def _corners(boxes: Tensor) -> Tensor:
    """(..., 4) from centres and sizes to left, top, right and bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def generalized_iou(one: Tensor, other: Tensor) -> Tensor:
    """The generalised IoU of each pair of boxes (left, top, right, bottom): (..., 4) and (..., 4) to (...).

    Rezatofighi et al. 2019, "Generalized Intersection over Union": the overlap over the union, minus the part of the
    smallest box around both that the union does not fill. From -1 to 1. Leading dimensions broadcast.

    >>> generalized_iou(torch.tensor([0.0, 0.0, 2.0, 1.0]), torch.tensor([1.0, 0.0, 3.0, 1.0]))
    tensor(0.3333)
    """
    overlap = _area(torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:]))
    hull = _area(torch.minimum(one[..., :2], other[..., :2]), torch.maximum(one[..., 2:], other[..., 2:]))
    union = _area(one[..., :2], one[..., 2:]) + _area(other[..., :2], other[..., 2:]) - overlap
    return overlap / union - (hull - union) / hull


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(-1)
