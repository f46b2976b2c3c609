"""The drawn AttGAN: the published losses, and the renderer's answer beside them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fluxguard_core.defences.attgan import AttGANShape
from fluxguard_core.defences.attgan_training import (
    AttGANPlan,
    AttGANRun,
    AttGANWeights,
    train_attgan,
)
from fluxguard_core.mini.attribute_labels import ATTRIBUTES

from .attributes_data import build_pairs
from .training import TrainPlan, start

SHAPE = AttGANShape(ATTRIBUTES, size=64, width=16, layers=4, shortcuts=2, injections=2, head=128)
PAIRS = 2400


def train_drawn_attgan(plan: TrainPlan) -> Path:
    """Train, resumably; returns the checkpoint (`attributes_ship` makes the shipped files of it)."""
    checkpoint, log = start("attgan", plan)
    pairs = build_pairs(plan.cache, min(PAIRS, plan.portraits.identities), SHAPE.size)
    settings = AttGANPlan(
        steps=plan.steps,
        rate=1e-3,
        critic_steps=1,
        lower_at=0.7,
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
