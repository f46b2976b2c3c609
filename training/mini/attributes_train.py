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
from fluxguard_core.mini.attributes import attgan_path
from fluxguard_core.weights.loading import load_tensors

from .attributes_data import build_pairs
from .training import TrainPlan, note, start

SHAPE = AttGANShape(ATTRIBUTES, size=64, width=16, layers=4, shortcuts=3, injections=3, head=128)
PAIRS = 4000
TAUGHT = 0.85
"""Share of the run in which the generator learns from answers alone."""


def train_drawn_attgan(plan: TrainPlan) -> Path:
    """Train, resumably; returns the checkpoint (`attributes_ship` makes the shipped files of it).

    A resumed run without a checkpoint goes on from the packaged networks, whose game is over: the generator learns
    from answers, then the classifier alone.
    """
    checkpoint, log = start("attgan", plan)
    pairs = build_pairs(plan.cache, min(PAIRS, plan.portraits.identities), SHAPE.size)
    goes_on = plan.resume and not checkpoint.is_file()
    settings = AttGANPlan(
        steps=plan.steps,
        rate=1e-3,
        critic_steps=1,
        lower_at=0.7,
        taught=TAUGHT,
        alone=1 - TAUGHT if goes_on or _went_on(checkpoint) else 0.1,
        minutes=plan.minutes,
        seed=plan.seed + 31,
        device=plan.device,
        half=True,
        weights=AttGANWeights(answer=100.0, classify_real=10.0),
    )

    run = AttGANRun.fresh(SHAPE, settings)
    if goes_on:
        run.before = take_up(run, attgan_path())
    draw = partial(pairs.draw, batch=plan.batch)
    train_attgan(run, draw, settings, checkpoint, partial(note, log))
    return checkpoint


def _went_on(checkpoint: Path) -> bool:
    return checkpoint.is_file() and int(load_tensors(checkpoint)[1].get("before", "0")) > 0


def take_up(run: AttGANRun, file: Path) -> int:
    """Start from a file's networks; returns the updates that they have had.

    Weights for inputs that its shape has not, such as finer features beside the decoder's, start at nothing. The
    critic's own head is in no file.
    """
    state, notes = load_tensors(file)
    for prefix, network in (("G.", run.generator), ("D.", run.critic)):
        own = network.state_dict()
        for key, value in own.items():
            if prefix + key not in state:
                continue
            old = state[prefix + key].to(value)
            value.zero_()[tuple(slice(0, n) for n in old.shape)] = old
        network.load_state_dict(own)
    return int(notes["steps"])
