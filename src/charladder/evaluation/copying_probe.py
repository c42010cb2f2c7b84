"""The copying probe (Al-Rfou et al. 2018, "Qualitative Analysis"): does a network know a name again that it met once?

An invented name is planted in real text; some way on it comes again. The control is the same text with another invented
name in the place of the first, so that the second was never mentioned. What the mention is worth is the difference in
bits. The first letter must be guessed; from the second on there is something to know it by.

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

NAME_LETTERS = 8  # of a name
CHARACTERS_PER_PASS = 16384  # characters in one pass


@dataclass(frozen=True)
class CopyingScore:
    """Names that come again after `distance` characters, by letter of the name: bits, and the median number of symbols
    held likelier, with the mention and without. saved: bits a letter that the mention saves over letters 2 to 8, with
    the half-width of a 95% interval over the probes."""

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
    """Ids of the small letters a text uses, or of all that it uses where there are fewer than 10: DNA, digits."""
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
    """predict: from tokens (P, T) logits (P, T, V). One entry for each distance of C/8, C/4, C/2 and 3C/4 that a
    context of C has room for. The same probes for the same seed. Raises UserError for a part or context
    too short for any."""
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
        head = context - distance - len(end)  # where the mention ends
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
    """A space, where the alphabet has one."""
    try:
        return alphabet.encode(b" ").astype(np.int64)
    except UserError:
        return np.empty(0, np.int64)
