"""A cloak of drawn faces against the trained deepfake models; one of them takes no part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fluxguard_core.defences.cloak import Cloak, save_cloak
from fluxguard_core.defences.cloak_faces import difference_seen, drawn_from, eyes_in
from fluxguard_core.defences.cloak_training import CloakPlan, CloakRun, train_cloak
from fluxguard_core.mini.attributes import FRAME

from .attributes_data import build_pairs
from .attributes_train import PAIRS
from .deepfakes_train import SIDE, load_models
from .training import TrainPlan, start

NAME = "cloak"
DISRUPT = 300.0
"""Weight of disruption: at 10, the default, the outputs of these small models moved less than the discriminators weigh."""


def train_drawn_cloak(plan: TrainPlan) -> Path:
    """Train on the AttGAN's portraits against the models in `plan.out`, resumably; returns the cloak's file."""
    checkpoint, log = start(NAME, plan)
    targets = load_models(plan.out).seen
    pairs = build_pairs(plan.cache, min(PAIRS, plan.portraits.identities), SIDE)
    faces = torch.from_numpy(np.asarray(pairs.before).copy())
    settings = CloakPlan(
        plan.steps,
        rate=2e-3,
        disrupt=DISRUPT,
        minutes=plan.minutes,
        seed=plan.seed + 51,
        device=plan.device,
    )

    def write(line: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    run = CloakRun.fresh(settings)
    draw = drawn_from(faces, plan.batch)
    train_cloak(run, draw, targets, settings, checkpoint, write, look=difference_seen)
    against = tuple(target.name for target in targets)
    cloak = Cloak(run.generator.eval(), settings.limit, "drawn", against, eyes_in(SIDE, FRAME))
    notes = {"side": str(SIDE), "steps": str(run.step), "licence": "Apache-2.0"}
    return save_cloak(plan.out / f"{NAME}.safetensors", cloak, notes)
