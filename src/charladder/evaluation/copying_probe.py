"""The copying probe (Al-Rfou et al. 2018, "Qualitative Analysis"): does a network predict a name that it has read once?

An invented name is inserted into real text twice, some distance apart. In the control, the first occurrence is another
invented name. The effect of the first occurrence is the difference in bits of the second. The first letter can only be
guessed; the later letters can be copied.

Shapes: P probes, T inputs, V symbols, L letters of a name.
"""

import itertools
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
    """Scores of names that recur after `distance` characters, by letter: mean bits and median ranks, with the first
    occurrence and without it (control). A rank is the number of symbols with a higher probability.

    saved: the mean number of bits that the first occurrence saves for each of letters 2 to 8. saved_within: half the
    width of its 95% interval over the probes.
    """

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
    lowercase = [one for one in used if alphabet.decode(np.array([one])).decode("utf-8", "replace").islower()]
    return np.array(lowercase if len(lowercase) >= 10 else used)


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
    space, letters = space_ids(alphabet), name_letters(alphabet, ids_N)
    inserted = 2 * NAME_LETTERS + 3 * len(space)  # characters: two names, and the spaces beside them
    distances = _find_distances(context, inserted)
    if not distances:
        needed = next(length for length in itertools.count(context) if _find_distances(length, inserted))
        raise UserError(
            f"the context of {context} characters is too short for the copying probe, which needs at least {needed}"
        )
    if part[1] - part[0] <= context:
        raise UserError(
            f"the text of {part[1] - part[0]} characters is too short for the copying probe, which needs more than the "
            f"context, {context}"
        )
    random = np.random.default_rng(seed)
    starts_P = random.integers(part[0], part[1] - context, probes)
    names_PL, others_PL = (letters[random.integers(0, len(letters), (probes, NAME_LETTERS))] for _ in range(2))
    scores = []
    for distance in distances:
        rows = []
        for start, name, other in zip(starts_P, names_PL, others_PL, strict=True):
            original = ids_N[start : start + context - inserted].astype(np.int64)
            before, between = original[:-distance], original[-distance:]
            for first_name in (name, other):
                rows.append(np.concatenate([before, space, first_name, space, between, space, name]))
        tokens_PT = torch.from_numpy(np.stack(rows).astype(np.int64))
        nats, ranks = [], []
        step = max(2, CHARACTERS_PER_PASS // context)
        for begin in range(0, len(tokens_PT), step):
            batch_PT = tokens_PT[begin : begin + step].to(device)
            logits_PLV = predict(batch_PT[:, :-1])[:, -NAME_LETTERS:].float()
            name_PL1 = batch_PT[:, -NAME_LETTERS:, None]
            nats.append(-logits_PLV.log_softmax(2).gather(2, name_PL1)[..., 0].double().cpu().numpy())
            ranks.append((logits_PLV > logits_PLV.gather(2, name_PL1)).sum(2).cpu().numpy())
        bits_P2L = np.concatenate(nats).reshape(probes, 2, NAME_LETTERS) / math.log(2)
        ranks_P2L = np.concatenate(ranks).reshape(probes, 2, NAME_LETTERS)
        saved_P = (bits_P2L[:, 1, 1:] - bits_P2L[:, 0, 1:]).mean(1)
        within = 1.96 * float(saved_P.std(ddof=1)) / math.sqrt(probes) if probes > 1 else math.inf
        scores.append(
            CopyingScore(
                distance, probes, bits_P2L[:, 0].mean(0).tolist(), bits_P2L[:, 1].mean(0).tolist(),
                np.median(ranks_P2L[:, 0], 0).tolist(), np.median(ranks_P2L[:, 1], 0).tolist(),
                float(saved_P.mean()), within,
            )
        )  # fmt: skip
    return scores


def space_ids(alphabet: Alphabet) -> np.ndarray:
    """The id of a space; empty if the alphabet has none."""
    try:
        return alphabet.encode(b" ").astype(np.int64)
    except UserError:
        return np.empty(0, np.int64)


def _find_distances(context: int, inserted: int) -> list[int]:
    """Those of C/8, C/4, C/2 and 3C/4 that are at least as long as a name and fit, with `inserted` characters more."""
    fractions = (context // 8, context // 4, context // 2, 3 * context // 4)
    return [distance for distance in fractions if NAME_LETTERS <= distance <= context - inserted]
