"""From coarse scores to pixels: colour models as in GrabCut, and the guided filter.

Rother et al., "GrabCut" (2004): each class has a colour model made of the pixels that it holds, and pixels go to
the class that explains their place and their colour. He et al., "Guided image filtering" (2010): a map follows
the edges of a picture.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

BINS = 12
ROUNDS = 5
COLOUR_WEIGHT = 2.0
_LEAST = 1e-4


def colour_posterior(picture: Tensor, evidence: Tensor, *, rounds: int = ROUNDS) -> Tensor:
    """Probability of every class, [K,H,W], of a picture [3,H,W] in [0,1].

    evidence: [K,H,W], log of how likely each class is at each place, up to a constant. Each round makes the
    classes' colour models anew from the pixels that are theirs.
    """
    bins = (picture.detach().float().clamp(0, 1) * (BINS - 1)).round().long()
    cells = ((bins[0] * BINS + bins[1]) * BINS + bins[2]).flatten()
    size = evidence.shape[-2:]
    chance = evidence.softmax(0)
    for _ in range(rounds):
        models = _colour_models(chance.flatten(1) ** 2, cells)
        told = models.log()[:, cells].reshape(len(evidence), *size)
        chance = (evidence + COLOUR_WEIGHT * told).softmax(0)
        chance = F.avg_pool2d(F.pad(chance[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    return chance


def _colour_models(weights: Tensor, cells: Tensor) -> Tensor:
    """Smoothed colour histograms [K, BINS³] of pixels [P] in cells, weighted [K,P]."""
    counts = weights.new_zeros(len(weights), BINS**3).index_add_(1, cells, weights)
    counts = counts.view(len(weights), 1, BINS, BINS, BINS)
    kernel = weights.new_tensor([0.25, 0.5, 0.25])
    for axis in range(3):
        shape, pad = [1, 1, 1, 1, 1], [0] * 6
        shape[2 + axis] = 3
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = 1
        counts = F.conv3d(F.pad(counts, pad), kernel.view(shape))
    shares = counts.flatten(1)
    shares = shares / shares.sum(1, keepdim=True).clamp_min(1e-3)
    return shares + _LEAST * shares.max()


def guided(maps: Tensor, picture: Tensor, radius: int, *, epsilon: float = 1e-4) -> Tensor:
    """Maps [K,H,W] made to follow the edges of a picture [3,H,W], by its brightness."""
    guide = picture.detach().float().mean(0, keepdim=True)

    def mean(values: Tensor) -> Tensor:
        padded = F.pad(values[None], (radius,) * 4, mode="replicate")
        rows = F.avg_pool2d(padded, (2 * radius + 1, 1), 1)
        return F.avg_pool2d(rows, (1, 2 * radius + 1), 1)[0]

    centre, level = mean(guide), mean(maps)
    slope = (mean(guide * maps) - centre * level) / (mean(guide * guide) - centre**2 + epsilon)
    offset = level - slope * centre
    return mean(slope) * guide + mean(offset)
