"""Cloaks of drawn faces: against the trained deepfake models, one of which takes no part, and against recognisers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from fluxguard_core.defences.cloak import Cloak, save_cloak
from fluxguard_core.defences.cloak_faces import (
    difference_seen,
    drawn_from,
    eyes_in,
    recognise_in_frame,
)
from fluxguard_core.defences.cloak_training import CloakPlan, CloakRun, train_cloak
from fluxguard_core.mini.attributes import FRAME
from fluxguard_core.mini.faces import SIDE as WHOLE
from fluxguard_core.mini.faces import load_ensemble
from fluxguard_core.mini.people import spec_of
from fluxguard_core.mini.renderer import render_batch

from .attributes_data import build_pairs
from .attributes_train import PAIRS
from .cache import TRAIN_WORLD
from .deepfakes_train import SIDE, load_models
from .training import TrainPlan, note, start

NAME, IDENTITY = "cloak", "identity-cloak"
PORTRAITS = 300
"""People of the identity cloak's training."""
AGAINST = 30.0
"""Weight of the recognisers' likeness beside the discriminator, which holds every change back."""
DISRUPT = 300.0
"""Weight of disruption: at 10, the default, the outputs of these small models moved less than the discriminators weigh."""

OPPONENTS = 12
"""Width of the discriminators' first layer; at the default, 32, they are most of a step's cost."""
QUIET = 10 ** (-34.3 / 20)
"""Root mean square of a change at 34.3 dB; a change that is everywhere at the limit of 6 of 255 has 32.6."""


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
        quiet=QUIET,
        opponents=OPPONENTS,
        minutes=plan.minutes,
        seed=plan.seed + 51,
        device=plan.device,
    )

    run = CloakRun.fresh(settings)
    draw = drawn_from(faces, plan.batch)
    train_cloak(run, draw, targets, settings, checkpoint, partial(note, log), look=difference_seen)
    return _written(plan, NAME, run, settings, tuple(target.name for target in targets), SIDE)


def train_identity_cloak(plan: TrainPlan) -> Path:
    """Train against the attacked recognisers of the miniature, resumably; returns the cloak's file."""
    checkpoint, log = start(IDENTITY, plan)
    ensemble = load_ensemble(held_out=["mobileface"])
    settings = CloakPlan(
        plan.steps,
        rate=1e-3,
        identity=AGAINST,
        opponents=OPPONENTS,
        minutes=plan.minutes,
        seed=plan.seed + 53,
        device=plan.device,
    )
    run = CloakRun.fresh(settings)
    people = min(PORTRAITS, plan.portraits.identities)
    train_cloak(
        run,
        drawn_from(portraits(people), plan.batch),
        (),
        settings,
        checkpoint,
        partial(note, log),
        recognise=recognise_in_frame(ensemble, FRAME),
        look=difference_seen,
    )
    attacked = tuple(encoder.name for encoder in ensemble.attacked)
    return _written(plan, IDENTITY, run, settings, attacked, WHOLE)


def portraits(people: int) -> torch.Tensor:
    """One portrait each of the first people [N, 3, 128, 128] uint8."""
    drawn = []
    for first in range(0, people, 20):
        numbers = range(first, min(people, first + 20))
        drawn.append(render_batch([spec_of(TRAIN_WORLD, n, 0) for n in numbers], WHOLE)[0])
    return (torch.cat(drawn) * 255).round().byte()


def _written(
    plan: TrainPlan,
    name: str,
    run: CloakRun,
    settings: CloakPlan,
    against: tuple[str, ...],
    side: int,
) -> Path:
    cloak = Cloak(run.generator.eval(), settings.limit, "drawn", against, eyes_in(side, FRAME))
    notes = {"side": str(side), "steps": str(run.step), "licence": "Apache-2.0"}
    return save_cloak(plan.out / f"{name}.safetensors", cloak, notes)
