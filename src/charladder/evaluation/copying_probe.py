"""The copying probe (Al-Rfou et al. 2018, "Qualitative Analysis"): does a network predict a name that it has read once?

An invented name is inserted into real text twice, some distance apart. In the control, the first occurrence is another
invented name. The effect of the first occurrence is the difference in bits of the second. The first letter can only be
guessed; the later letters can be copied.

Shapes: P probes, T inputs, V symbols, L letters of a name.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from charladder.errors import UserError
from charladder.text import Alphabet

NAME_LETTERS = 8  # in an invented name
CHARACTERS_PER_PASS = 16384  # of the network


@dataclass(frozen=True)
class CopyingScore:
    """Scores of names that recur after `distance` characters, by letter: bits, and the median number of symbols with a
    higher probability, with the first occurrence and without (control). saved: bits that it saves for each of letters 2
    to 8. saved_within: the half-width of the 95% interval over the probes."""

    distance: int
    probes: int
    bits_L: list[float]
    control_bits_L: list[float]
    ranks_L: list[float]
    control_ranks_L: list[float]
    saved: float
    saved_within: float

    def as_dict(self) -> dict:
        return asdict(self)


def name_letters(alphabet: Alphabet, ids_N: np.ndarray) -> np.ndarray:
    """The ids of the lower-case letters in a text, or of all its symbols if there are fewer than 10 (DNA, digits)."""
    used = np.flatnonzero(np.bincount(ids_N[: 1 << 20], minlength=alphabet.size))
    small = [one for one in used if alphabet.decode(np.array([one])).decode("utf-8", "replace").islower()]
    return np.array(small if len(small) >= 10 else used)


@torch.inference_mode()
def probe_copying(
    predict: Callable[[Tensor], Tensor],
    alphabet: Alphabet,
    ids_N: np.ndarray,
    part: tuple[int, int],
    context: int,
    probes: int = 200,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[CopyingScore]:
    """One score for each distance of C/8, C/4, C/2 and 3C/4 that fits in a context of C characters.

    predict: from tokens (P, T), logits (P, T, V). The probes depend on `seed` alone. Raises UserError if the part or
    the context is too short for any distance.
    """
    space = space_ids(alphabet)
    mention, end = [*space, *[0] * NAME_LETTERS, *space], [*space, *[0] * NAME_LETTERS]
    shares = (context // 8, context // 4, context // 2, 3 * context // 4)
    distances = [d for d in shares if d >= NAME_LETTERS and d + len(mention) + len(end) <= context]
    if not distances or part[1] - part[0] <= context:
        raise UserError("the text or the context is too short for the copying probe; it wants 64 characters of both")
    random, letters = np.random.default_rng(seed), name_letters(alphabet, ids_N)
    starts_P = random.integers(part[0], part[1] - context, probes)
    names_PL, others_PL = (letters[random.integers(0, len(letters), (probes, NAME_LETTERS))] for _ in range(2))
    found = []
    for distance in distances:
        head = context - distance - len(end)  # where the first occurrence ends
        rows = []
        for start, name, other in zip(starts_P, names_PL, others_PL, strict=True):
            real = ids_N[start : start + context].astype(np.int64)
            before = real[: max(0, head - len(mention))]
            between = real[len(before) : len(before) + distance]
            for first in (name, other):
                planted = np.concatenate([before, space, first, space, between, space, name])
                rows.append(planted[-context:])
        tokens_PT = torch.from_numpy(np.stack(rows).astype(np.int64))
        nats, ranks = [], []
        step = max(2, CHARACTERS_PER_PASS // context)
        for begin in range(0, len(tokens_PT), step):
            some_PT = tokens_PT[begin : begin + step].to(device)
            logits_PLV = predict(some_PT[:, :-1])[:, -NAME_LETTERS:].float()
            wanted_PL1 = some_PT[:, -NAME_LETTERS:, None]
            nats.append(-logits_PLV.log_softmax(2).gather(2, wanted_PL1)[..., 0].double().cpu().numpy())
            ranks.append((logits_PLV > logits_PLV.gather(2, wanted_PL1)).sum(2).cpu().numpy())
        bits_P2L = np.concatenate(nats).reshape(probes, 2, NAME_LETTERS) / math.log(2)
        ranks_P2L = np.concatenate(ranks).reshape(probes, 2, NAME_LETTERS)
        saved_P = (bits_P2L[:, 1, 1:] - bits_P2L[:, 0, 1:]).mean(1)
        within = 1.96 * float(saved_P.std(ddof=1)) / math.sqrt(probes) if probes > 1 else math.inf
        found.append(
            CopyingScore(
                distance, probes, bits_P2L[:, 0].mean(0).tolist(), bits_P2L[:, 1].mean(0).tolist(),
                np.median(ranks_P2L[:, 0], 0).tolist(), np.median(ranks_P2L[:, 1], 0).tolist(),
                float(saved_P.mean()), within,
            )
        )  # fmt: skip
    return found


def space_ids(alphabet: Alphabet) -> np.ndarray:
    """The id of a space; empty if the alphabet has none."""
    try:
        return alphabet.encode(b" ").astype(np.int64)
    except UserError:
        return np.empty(0, np.int64)
