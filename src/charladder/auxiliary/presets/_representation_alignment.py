"""Alignment of hidden states with the features of a pretrained encoder: REPA, and HASTE's early end."""

from typing import Any

from torch import nn

from charladder.auxiliary import heads, losses
from charladder.auxiliary._target_sources import TargetSource
from charladder.auxiliary._term import Term
from charladder.auxiliary.presets._arguments import checked
from charladder.auxiliary.presets._early_end import until
from charladder.auxiliary.weights import Weight


@checked
def repa(
    tap: str,
    target: TargetSource,
    projector: nn.Module | heads.HeadFactory,
    *,
    weight: Weight = 0.5,
    end: float | None = None,
    **fields: Any,
) -> Term:
    """Representation alignment: 1 - cosine similarity of projected hidden states and features of a frozen encoder.

    Yu et al. 2024 (ICLR 2025, arXiv 2410.06940), "Representation Alignment for Generation: Training Diffusion
    Transformers Is Easier Than You Think", section 3. Rule: loss = main + 0.5 * mean over patches of
    -cosine(projector(hidden), encoder(image)). Here 1 - cosine, which has the same gradient. In their code the hidden
    states are those of block 8, the projector has three layers, SiLU and a width of 2048, and the encoder (DINOv2)
    reads the clean image, while the model reads the noisy one.
    Found: SiT-XL reaches in less than 400 thousand steps what it reaches in 7 million without (ImageNet, without
    classifier-free guidance). Against it: Wang et al. 2025 (HASTE, NeurIPS 2025, arXiv 2505.16792) find that it helps
    early, then stagnates or degrades; they explain it by the lower dimension of the encoder's features. They end it at
    a fixed step (250,000 in their command; the checkpoint that they evaluate has 2,500,000 steps), and also align
    attention maps, which this preset does not. Both results are of image diffusion with a strong encoder.

    tap, fields: as in Term. target: aux.frozen(encoder, inputs=...), whose features (B, T, F) have the positions of the
    tap (B, T, D). projector: heads.projector(F, hidden=2048), or a module from (..., D) to (..., F). end: the progress
    at which the term ends; None for never.

    >>> import torch
    >>> from charladder import auxiliary as aux
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))  # removes noise
    >>> encoder = nn.Linear(4, 6)
    >>> align = repa("1", aux.frozen(encoder, inputs="clean"), heads.projector(6, hidden=16), end=0.1)
    >>> denoise = aux.Term(nn.functional.mse_loss, target="clean")
    >>> clean = torch.randn(2, 5, 4)
    >>> noisy = clean + torch.randn(2, 5, 4)
    >>> objective = aux.Objective(denoise, {"repa": align}).build(model, noisy)
    >>> [list(objective(model, noisy, {"clean": clean}, progress=at).terms) for at in (0.0, 0.1)]
    [['main', 'repa'], ['main']]
    """
    return Term(losses.cosine, tap=tap, head=projector, target=target, weight=until(weight, end), **fields)
