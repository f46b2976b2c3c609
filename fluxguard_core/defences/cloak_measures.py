"""How broken a deepfake model's outputs are: distances, success, and the Frechet distance of two sets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cloak_targets import masked_error

SUCCESS = 0.05
"""Masked mean squared error, in [-1, 1], from which an output counts as broken (Ruiz et al. 2020; CMUA)."""


@dataclass(frozen=True)
class Disruption:
    """Means over pictures.

    Args:
        error: mean squared error of the outputs in [-1, 1].
        masked: the same where the model changes the picture.
        success: share of the pictures whose masked error is SUCCESS or more.
        printed: the root of the sum of squares, the published d_pix as it is printed; it grows with the picture.
    """

    error: float
    masked: float
    success: float
    printed: float


def disruption(broken: Tensor, clean: Tensor, source: Tensor | None = None) -> Disruption:
    """Of outputs [B, 3, H, W] in [0, 1] for cloaked and for plain pictures."""
    difference = (2 * (broken - clean)).square()
    masked = masked_error(broken, clean, source)
    return Disruption(
        float(difference.mean()),
        float(masked.mean()),
        float((masked >= SUCCESS).float().mean()),
        float(difference.flatten(1).sum(1).sqrt().mean()),
    )


def frechet(one: Tensor, other: Tensor) -> float:
    """Frechet distance of the normal distributions of two sets of features [N, D] and [M, D].

    ‖μ1 - μ2‖² + tr(C1 + C2 - 2·(C1·C2)^½); the root by eigenvalues of the symmetric √C1·C2·√C1, so that it is real.
    """
    first, second = one.cpu().double(), other.cpu().double()  # not every device has float64
    shift = (first.mean(0) - second.mean(0)).square().sum()
    c1, c2 = torch.cov(first.T), torch.cov(second.T)
    c1, c2 = c1.reshape(first.shape[1], -1), c2.reshape(second.shape[1], -1)
    values, vectors = torch.linalg.eigh(c1)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ c2 @ root).clamp_min(0).sqrt().sum()
    return float((shift + c1.trace() + c2.trace() - 2 * mixed).clamp_min(0))
