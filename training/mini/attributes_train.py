"""The drawn AttGAN: the renderer's answers first, then the published game beside them, then the classifier alone.

The step in bfloat16 takes two thirds of float32's time for the generator on a CPU that knows it; the critic, whose
penalty is differentiated twice, is slower in it, and channels-last memory slows both.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fluxguard_core.defences.attgan import AttGANShape
from fluxguard_core.defences.attgan_losses import AttGANWeights
from fluxguard_core.defences.attgan_training import AttGANPlan, AttGANRun, train_attgan
from fluxguard_core.mini.attribute_labels import ATTRIBUTES

from .attributes_data import build_pairs
from .training import TrainPlan, start

SHAPE = AttGANShape(ATTRIBUTES, size=64, width=16, layers=4, shortcuts=3, injections=3, head=128)
PAIRS = 6000


def train_drawn_attgan(plan: TrainPlan) -> Path:
    """Train, resumably; returns the checkpoint (`attributes_ship` makes the shipped files of it)."""
    checkpoint, log = start("attgan", plan)
    pairs = build_pairs(plan.cache, min(PAIRS, plan.portraits.identities), SHAPE.size)
    settings = AttGANPlan(
        steps=plan.steps,
        rate=1e-3,
        critic_steps=1,
        lower_at=0.0,
        taught=0.7,
        alone=0.1,
        minutes=plan.minutes,
        seed=plan.seed + 31,
        device=plan.device,
        half=True,
        weights=AttGANWeights(answer=100.0, classify_real=10.0),
    )

    def write(line: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    draw = partial(pairs.draw, batch=plan.batch)
    train_attgan(AttGANRun.fresh(SHAPE, settings), draw, settings, checkpoint, write)
    return checkpoint
