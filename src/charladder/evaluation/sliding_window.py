"""Bits per character by a sliding window (Al-Rfou et al. 2018, section "Experimental Setup": stride 1).

A window of C inputs moves `stride` characters at a time, and its last `stride` predictions are scored. So each
character is predicted from C - stride + 1 to C characters, or near the start of the text from all before it. The first
character of a text costs log2 of the alphabet's size. With boundaries, each file is a separate text.

Shapes: B windows, T inputs, V symbols, F files, M characters scored together.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from charladder.errors import UserError
from charladder.text import release_pages

Predictor = Callable[[Tensor, int], Tensor]
"""From tokens (B, T) and a number n, the logits (B, n, V) of the last n positions."""


@dataclass(frozen=True)
class Score:
    """The score of a part of a text. bits: the total over its `characters`."""

    bits: float
    characters: int
    seconds: float

    @property
    def bits_per_character(self) -> float:
        return self.bits / self.characters


@dataclass(frozen=True)
class ScoredCharacters:
    """Characters scored together, in the order of the text: the position of each, the number of characters it was
    predicted from, its negative log probability in nats, the number of symbols with a higher probability, and, if asked
    for, the entropy of the prediction in bits."""

    positions_M: np.ndarray
    context_M: np.ndarray
    nats_M: np.ndarray
    ranks_M: np.ndarray
    entropy_M: np.ndarray | None = None


class Window(NamedTuple):
    """The inputs ids[start:end-1], of which the predictions of ids[begin:end] are scored."""

    start: int
    begin: int
    end: int

    @property
    def shape(self) -> tuple[int, int]:
        """The number of inputs, and of scored predictions."""
        return self.end - 1 - self.start, self.end - self.begin


def check_stride(stride: int, context: int) -> None:
    """Raises UserError for a stride that is not between 1 and the context."""
    if not 1 <= stride <= context:
        raise UserError(field="stride", value=stride, rule=f"it must be between 1 and the context, {context}")


def cross_entropy_nats(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """The negative log probabilities of the targets in nats, (B, T), float32."""
    nats_M = F.cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten(), reduction="none")
    return nats_M.view(targets_BT.shape)


def ranks(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """How many symbols have a higher probability than the target, (B, T), int32."""
    return (logits_BTV > logits_BTV.gather(2, targets_BT[..., None])).sum(2, dtype=torch.int32)


def entropy_bits(logits_BTV: Tensor) -> Tensor:
    """The entropies of the predictions in bits, (B, T), float32."""
    log_p_BTV = logits_BTV.float().log_softmax(2)
    return -(log_p_BTV.exp() * log_p_BTV).sum(2) / math.log(2)


def windows_to_score(part: tuple[int, int], context: int, stride: int, first: int = 0) -> Iterator[Window]:
    """Yields the windows that score a part of a text.

    The text begins at `first`. Characters less than a context after it are scored in one window. The inputs of a
    character do not depend on the end of the part.
    """
    begin, last = max(part[0], first + 1), part[1]
    first_end = first + context + 1
    while begin < last:
        end = first_end if begin < first_end else begin + stride
        yield Window(max(first, end - 1 - context), begin, min(last, end))
        begin = end


def batch_windows(windows: Iterable[Window], max_characters: int) -> Iterator[list[Window]]:
    """Yields batches of successive windows of the same shape. A batch ends when it has at least `max_characters`."""
    batch: list[Window] = []
    for window in windows:
        characters = len(batch) * (window.end - window.start)
        if batch and (window.shape != batch[0].shape or characters >= max_characters):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def texts_in_part(part: tuple[int, int], ends_F: np.ndarray | None) -> Iterator[tuple[int, int, int]]:
    """Yields (first, begin, end) for each text in a part: its start, and the range of it that is in the part."""
    if ends_F is None:
        yield 0, *part
        return
    number = int(np.searchsorted(ends_F, part[0], "right"))
    first = int(ends_F[number - 1]) if number else 0
    while first < part[1]:
        end = int(ends_F[number])
        yield first, max(first, part[0]), min(end, part[1])
        first, number = end, number + 1


@torch.inference_mode()
def evaluate(
    predict: Predictor,
    ids_N: np.ndarray,
    part: tuple[int, int],
    context: int,
    stride: int,
    alphabet: int,
    device: torch.device | str = "cpu",
    batch_characters: int = 16384,
    on_progress: Callable[[int, float], None] = lambda characters, bits: None,
    ends_F: np.ndarray | None = None,
    on_scored: Callable[[ScoredCharacters], None] | None = None,
    with_entropy: bool = False,
) -> Score:
    """Scores ids_N[part]. The context may begin before the part but, with `ends_F`, not in another file.

    on_progress: called with the characters scored so far and their bits. on_scored: called with all characters except
    the first of a text, which is not predicted. with_entropy: they have the entropies of their predictions. Raises
    UserError for an empty part, or a stride that is not between 1 and the context.
    """
    check_stride(stride, context)
    if part[1] <= part[0]:
        raise UserError("there are no characters to score in this part; choose another split or hold out more")
    began = time.perf_counter()
    bits, done = 0.0, 0

    def windows() -> Iterator[Window]:
        nonlocal bits, done
        for first, begin, end in texts_in_part(part, ends_F):
            if begin == first < end:  # the first character of a text
                bits, done = bits + math.log2(alphabet), done + 1
            yield from windows_to_score((begin, end), context, stride, first)

    def scored_characters(
        rows_BT: np.ndarray, targets_BT: Tensor, logits_BTV: Tensor, nats: Tensor
    ) -> ScoredCharacters:
        count = targets_BT.shape[1]
        context_BT = np.broadcast_to(np.arange(rows_BT.shape[1] - count, rows_BT.shape[1]), (len(rows_BT), count))
        return ScoredCharacters(
            rows_BT[:, -count:].ravel(), context_BT.ravel(), nats.double().cpu().numpy().ravel(),
            ranks(logits_BTV, targets_BT).cpu().numpy().ravel(),
            entropy_bits(logits_BTV).cpu().numpy().ravel() if with_entropy else None,
        )  # fmt: skip

    def score(batch: list[Window]) -> None:
        nonlocal bits, done
        inputs, count = batch[0].shape
        rows_BT = np.array([window.start for window in batch])[:, None] + np.arange(inputs + 1)
        window_BT = torch.from_numpy(ids_N[rows_BT].astype(np.int64)).to(device)
        logits_BTV = predict(window_BT[:, :-1], count)
        targets_BT = window_BT[:, -count:]
        nats = cross_entropy_nats(logits_BTV, targets_BT)
        bits += float(nats.double().sum()) / math.log(2)
        done += count * len(batch)
        if on_scored is not None:
            on_scored(scored_characters(rows_BT, targets_BT, logits_BTV, nats))
        release_pages(ids_N)
        on_progress(done, bits)

    for batch in batch_windows(windows(), batch_characters):
        score(batch)
    return Score(bits, done, time.perf_counter() - began)
