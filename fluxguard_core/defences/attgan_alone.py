"""What AttGAN's networks learn one by one, where answers are known: no part of the paper.

A generator that is told the answer needs no critic to learn where earrings hang, and learns it in a third of the time;
the game then only sharpens. A classifier that goes on alone, after the game, reads faces better than one that shares
its layers with a critic, and is no longer the one that the generator was made to please.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from .attgan import Discriminators, Generator
from .attgan_losses import LabelledBatch, answer_loss, label_planes


def taught_loss(
    generator: Generator, batch: LabelledBatch, precision: AbstractContextManager[object]
) -> tuple[Tensor, dict[str, float]]:
    """The distance of the edited pictures to their answers, which the batch has to have.

    What an edit adds to a picture is G(x, b) - G(x, a), so that is what has to be right: glasses that G(x, a) shows
    blurred would stay as an outline where they are taken off. G(x, b) alone has its share, to remain a picture.
    """
    assert batch.answers is not None
    asked = label_planes(torch.cat((batch.wanted, batch.labels)))
    with precision:
        features = generator.encode(batch.pictures)
        made = generator.decode([torch.cat((f, f)) for f in features], asked).float()
    edited, same = made.chunk(2)
    loss = answer_loss(batch.pictures + edited - same, batch.pictures, batch.answers)
    whole = F.l1_loss(edited, batch.answers)
    return loss + whole, {"answer": float(loss.detach()), "whole": float(whole.detach())}


def classifier_loss(
    critic: Discriminators, batch: LabelledBatch, random: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Cross entropy of the classes of real pictures, of the batch's and of those that answer whole edits."""
    pictures, labels = batch.pictures, batch.labels
    if batch.answers is not None:
        whole = ((batch.wanted == 0) | (batch.wanted == 1)).all(1)
        pictures = torch.cat((pictures, batch.answers[whole]))
        labels = torch.cat((labels, batch.wanted[whole]))
    features = critic.conv(_worn(pictures, random)).flatten(1)
    loss = F.binary_cross_entropy_with_logits(critic.fc_cls(features), labels)
    return loss, {"alone": float(loss.detach())}


def _worn(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Half of them blurred, all of them noisy by up to .1: what is pasted back is never quite a picture."""
    count = len(pictures)
    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    chosen = torch.rand(count, 1, 1, 1, generator=random).to(pictures) < 0.5
    noise = torch.randn(pictures.shape, generator=random).to(pictures)
    size = 0.1 * torch.rand(count, 1, 1, 1, generator=random).to(pictures)
    return (torch.where(chosen, blurred, pictures) + size * noise).clamp(-1, 1)
