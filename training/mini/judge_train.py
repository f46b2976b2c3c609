"""The classifier that judges edits of drawn attributes, trained for that alone: no editor meets it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fluxguard_core.mini.attribute_judge import SIZE, JudgeNet
from fluxguard_core.mini.attribute_labels import ATTRIBUTES, labels_of
from fluxguard_core.mini.people import HELD_OUT_WORLD
from fluxguard_core.mini.renderer import render_batch

from .attributes_data import Pairs, build_pairs, pair_of
from .attributes_train import PAIRS
from .faces_data import degrade
from .faces_fit import FitPlan, fit
from .faces_ship import round_to_half, write_weights
from .faces_train import bookkeeping
from .handover import write_card
from .training import TrainPlan

NAME = "fluxguard-mini-judge"
MEASURED = 200
_SHIFT = 3


def train_judge(plan: TrainPlan) -> Path:
    """Train on the portraits of the AttGAN's pairs, worn and shifted; returns the file."""
    pairs = build_pairs(plan.cache, min(PAIRS, plan.portraits.identities), SIZE)
    torch.manual_seed(61 + plan.seed)
    network = JudgeNet().to(plan.device)

    def draw(step: int, random: torch.Generator) -> Tensor:
        pictures, labels = _batch(pairs, plan.batch, random)
        logits = network(pictures.to(plan.device))
        return F.binary_cross_entropy_with_logits(logits, labels.to(plan.device))

    schedule = FitPlan(plan.steps, plan.batch, 3e-3, seed=61 + plan.seed, minutes=plan.minutes)
    samples = fit(network, draw, schedule, *bookkeeping(plan, "judge"))
    round_to_half(network.cpu())
    return _finish(network, plan, samples)


def _batch(pairs: Pairs, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Portraits in [0, 1] and labels; either side of a pair, mirrored, shifted by pixels and worn."""
    rows = torch.randint(0, len(pairs.before), (count,), generator=random).numpy()
    side = torch.randint(0, 2, (count,), generator=random).numpy()
    drawn = np.where(side[:, None, None, None] == 1, pairs.after[rows], pairs.before[rows])
    pictures = degrade(torch.from_numpy(drawn).float() / 255, random)
    pictures = pictures.flip(-1) if float(torch.rand((), generator=random)) < 0.5 else pictures
    wide = F.pad(pictures, (_SHIFT,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * _SHIFT + 1, (2,), generator=random).tolist()
    shifted = wide[..., top : top + SIZE, left : left + SIZE]
    return shifted, torch.from_numpy(pairs.labels[rows, side]).float()


@torch.no_grad()
def right_answers(network: JudgeNet, people: int) -> float:
    """Share of right answers on held-out people, each in both looks of their pair."""
    right = 0.0
    for first in range(0, people, 50):
        numbers = range(first, min(people, first + 50))
        specs = [spec for n in numbers for spec in pair_of(HELD_OUT_WORLD, n)]
        truth = torch.tensor([labels_of(vars(s.attributes)) for s in specs])
        right += float(((network(render_batch(specs, SIZE)[0]) > 0) == (truth > 0)).sum())
    return right / (2 * people * len(ATTRIBUTES))


def _finish(network: JudgeNet, plan: TrainPlan, samples: int) -> Path:
    people = min(MEASURED, plan.portraits.identities)
    share = right_answers(network, people)
    file = write_weights(
        plan.out / f"{NAME}.safetensors", network, {"world": "drawn", "licence": "Apache-2.0"}
    )
    text = [
        f"# {NAME}",
        "",
        "Attribute classifier of the miniature world that judges edits, and does nothing else: no editor was trained "
        "with it, and no search for a strength asks it.",
        "",
        f"- File: {file.name}, float16 safetensors, {file.stat().st_size / 1e6:.2f} MB",
        "- Data: the invented people that the AttGAN is trained on, drawn by the miniature's own renderer, each in two "
        "looks; no photograph of anybody",
        f"- Training: {samples} samples, AdamW with warm-up and cosine, one CPU core",
        f"- Right answers on {people} held-out people in two looks each, {len(ATTRIBUTES)} attributes: {share:.4f}",
        "- Limits: It knows the renderer's portraits and pictures edited from them, nothing else: it is a stand-in for "
        "tests and demonstrations and says nothing about real faces.",
        "- Licence: Apache-2.0",
    ]
    write_card(file, text, "faces")
    return file
