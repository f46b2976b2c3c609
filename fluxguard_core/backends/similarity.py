"""Concept attention's score: how near each picture token is to each concept where attention has gathered.

Helbling et al., "ConceptAttention: Diffusion transformers learn highly interpretable features" (2025). Concepts
stand beside the prompt as further text tokens that look at the picture and at each other, and that nothing
looks at: the picture's own way through the network stays as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..flow.field import Block, Layout

SIGMA = 0.5
"""Noise level of the pass; between 0 and 0.7 the drawn portraits' overlap moved by 0.02."""
_PUBLISHED = (15, 16, 17, 18)


def concept_blocks(layout: Layout) -> tuple[Block, ...]:
    """Blocks whose attention is compared.

    FLUX.1's: double blocks 15 to 18, as published. A shallower network: all its double blocks and its last
    single one, chosen on the drawn portraits.
    """
    if layout.double_blocks > _PUBLISHED[-1]:
        return tuple(Block("double", index) for index in _PUBLISHED)
    doubles = tuple(Block("double", index) for index in range(layout.double_blocks))
    last = layout.single_blocks - 1
    return (*doubles, Block("single", last)) if last >= 0 else doubles


def concept_mask(text: int, concepts: int, image: int, device: torch.device) -> Tensor:
    """Who may look at whom, bool [S, S] for S = text + concepts + image tokens in this order."""
    total = text + concepts + image
    seen = torch.ones(total, total, dtype=torch.bool, device=device)
    own = slice(text, text + concepts)
    seen[:, own] = False
    seen[own, own] = True
    seen[own, :text] = False
    return seen


def token_scores(gathered: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Score of every concept at every picture token, [N, L].

    gathered: for each block the attention output, before its projection, of the picture tokens [L, D] and of the
    N concepts [N, D]. Their dot product, each concept's mean over the picture and each token's mean over the
    concepts taken off, in units of its spread; the mean over blocks.
    """
    if not gathered:
        raise FluxGuardError(
            "The transformer passed by none of the blocks whose attention shows the concepts."
        )
    maps = []
    for image, concepts in gathered:
        near = concepts.float() @ image.float().T
        near = near - near.mean(1, keepdim=True)
        near = near - near.mean(0, keepdim=True)
        maps.append(near / near.std().clamp_min(1e-6))
    return torch.stack(maps).mean(0)


def over_picture(scores: Tensor, grid: tuple[int, int], side: int, size: tuple[int, int]) -> Tensor:
    """Scores of tokens [N, L] on a grid of `side` pixels each, over the pixels of the picture, [N, H, W]."""
    rows, columns = grid
    maps = scores.reshape(1, len(scores), rows, columns)
    maps = F.interpolate(maps, (rows * side, columns * side), mode="bilinear", align_corners=False)
    return maps[0, :, : size[0], : size[1]]
