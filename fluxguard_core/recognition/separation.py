"""Whether a recogniser tells these people apart: pairs of one person against pairs of strangers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .thresholds import accept_rate, person_indices, stranger_cosines, threshold_at

FEW_PAIRS = 10
"""Pairs of one person below which nothing is said about how well they are told apart."""


@dataclass(frozen=True)
class Separation:
    """What was compared and how well it falls apart.

    Args:
        same, different: pairs of one person, and of two.
        auc: share of (same, different) couples of pairs in the right order; 0.5 is a guess, None without pairs.
        accepted: share of pairs of one person above the threshold that a share `far` of strangers passes.
        same_mean, strangers_mean, spread: of the cosines; spread is the strangers' standard deviation.
    """

    same: int
    different: int
    auc: float | None
    accepted: float | None
    far: float
    threshold: float
    same_mean: float | None
    strangers_mean: float
    spread: float

    @property
    def doubt(self) -> str:
        """What is wrong with the recogniser as it is fed, in a sentence; empty where nothing shows."""
        if self.strangers_mean > 0.95 or self.spread < 0.005:
            return (
                f"It calls everybody alike (strangers average a cosine of {self.strangers_mean:.3f}, "
                f"spread {self.spread:.4f}): it is fed in a way it was not trained for, or it is no recogniser."
            )
        if self.auc is None or self.same < FEW_PAIRS:
            return ""
        if self.auc < 0.9:
            return (
                f"It does not tell these people apart (AUC {self.auc:.3f}; 0.5 is a guess, a sound recogniser "
                "has 0.98 and more): it is fed or cut in a way it was not trained for, or it is no recogniser."
            )
        if self.auc < 0.97:
            return f"It tells these people apart poorly (AUC {self.auc:.3f}; a sound recogniser has 0.98 and more)."
        return ""

    @property
    def useless(self) -> bool:
        """Whether a threshold measured on these pairs would mean nothing."""
        alike = self.strangers_mean > 0.95 or self.spread < 0.005
        guess = self.auc is not None and self.same >= FEW_PAIRS and self.auc < 0.9
        return alike or guess


def same_cosines(embeddings: Tensor, people: Sequence[str]) -> Tensor:
    """Cosines [P] of all pairs of pictures of one person; embeddings [N,D] unit vectors."""
    labels = person_indices(people)
    vectors = embeddings.cpu()
    keep = (labels[:, None] == labels[None, :]).triu(1)
    return (vectors @ vectors.T)[keep]


def separate(embeddings: Tensor, people: Sequence[str], *, far: float = 1e-2) -> Separation:
    """How well embeddings [N,D] tell their people apart; at least two people."""
    same, different = same_cosines(embeddings, people), stranger_cosines(embeddings, people)
    threshold = threshold_at(different, far)
    known = same.numel() > 0
    return Separation(
        same=same.numel(),
        different=different.numel(),
        auc=area(same, different) if known else None,
        accepted=accept_rate(same, threshold) if known else None,
        far=far,
        threshold=threshold,
        same_mean=float(same.mean()) if known else None,
        strangers_mean=float(different.mean()),
        spread=float(different.std()) if different.numel() > 1 else 0.0,
    )


def area(same: Tensor, different: Tensor) -> float:
    """Area under the ROC curve: how often a same pair lies above a different one, ties count half."""
    ordered = different.double().sort().values
    values = same.double()
    below = torch.searchsorted(ordered, values, right=False)
    upto = torch.searchsorted(ordered, values, right=True)
    return float((below + upto).double().mean() / 2 / len(ordered))
