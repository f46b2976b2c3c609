"""AttGAN's losses: the paper's, and the distance to an answer where one is known."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .attgan import Discriminators, Generator


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Pictures to train on.

    Args:
        pictures: [B, 3, S, S] in [-1, 1].
        labels: [B, n], 0 or 1: what they show.
        wanted: [B, n] in [0, 1]: what the generator is asked for.
        answers: [B, 3, S, S], the same pictures with the wanted attributes, where that is known.
    """

    pictures: Tensor
    labels: Tensor
    wanted: Tensor
    answers: Tensor | None = None


@dataclass(frozen=True)
class AttGANWeights:
    """Weights of the losses (paper, Eq. 12-13)."""

    reconstruct: float = 100.0
    classify: float = 10.0
    classify_real: float = 1.0
    penalty: float = 10.0


def label_planes(labels: Tensor) -> Tensor:
    """Labels in [0, 1] as the generator wants them, in [-0.5, 0.5]."""
    return labels - 0.5


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean of (‖∇D‖ - 1)² between real and fake pictures (WGAN-GP; Gulrajani et al. 2017, Eq. 3)."""
    share = torch.rand(len(real), 1, 1, 1, generator=generator).to(real.device)
    between = (real + share * (fake - real)).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def critic_loss(
    critic: Discriminators,
    batch: LabelledBatch,
    fake: Tensor,
    weights: AttGANWeights,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """E[D(x_b)] - E[D(x)] + 10·GP + BCE(C(x), a), and its parts."""
    real, logits = critic(batch.pictures)
    distance = critic(fake)[0].mean() - real.mean()
    penalty = gradient_penalty(lambda x: critic(x)[0], batch.pictures, fake, generator)
    classes = F.binary_cross_entropy_with_logits(logits, batch.labels)
    loss = distance + weights.penalty * penalty + weights.classify_real * classes
    return loss, {"critic": float(distance.detach()), "classes": float(classes.detach())}


def answer_loss(edited: Tensor, pictures: Tensor, answers: Tensor) -> Tensor:
    """L1 distance to the answers and of their slopes (Mathieu et al. 2016), and both once more where something changes.

    Earrings are a hundredth of a picture; without the second part nobody would miss them. Without the slopes edges
    stay blurred.
    """
    wrong = edited - answers
    error = wrong.abs().mean(1)
    error = error + _slopes(wrong, 2).abs().mean(1) + _slopes(wrong, 3).abs().mean(1)
    changed = ((answers - pictures).abs().amax(1) > 0.06).to(error)
    there = (error * changed).sum((1, 2)) / (changed.sum((1, 2)) + 0.005 * changed[0].numel())
    return error.mean() + there.mean()


def _slopes(pictures: Tensor, axis: int) -> Tensor:
    """Differences of neighbours along an axis, 0 at its end, of the pictures' shape."""
    steps = pictures.diff(dim=axis)
    return torch.cat((steps, torch.zeros_like(pictures.narrow(axis, 0, 1))), axis)


def generator_loss(
    generator: Generator,
    critic: Discriminators,
    batch: LabelledBatch,
    weights: AttGANWeights,
    precision: AbstractContextManager[object] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """-E[D(x_b)] + 10·BCE(C(x_b), b) + 100·|G(x, a) - x|, and its parts."""
    with precision or nullcontext():
        features = generator.encode(batch.pictures)
        edited = generator.decode(features, label_planes(batch.wanted))
        again = generator.decode(features, label_planes(batch.labels))
    score, logits = critic(edited.float())
    classes = F.binary_cross_entropy_with_logits(logits, batch.wanted)
    same = F.l1_loss(again.float(), batch.pictures)
    loss = -score.mean() + weights.classify * classes + weights.reconstruct * same
    figures = {"edited": float(classes.detach()), "same": float(same.detach())}
    return loss, figures
