"""The drawn AttGAN: the generator learns the renderer's answers, then the classifier reads portraits, each alone.

The published game is left out: where every answer is known a critic has nothing to add, and takes two thirds of the
time. `fluxguard attributes train`, which has pictures without answers, plays it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fluxguard_core.defences.attgan import AttGANShape
from fluxguard_core.defences.attgan_training import AttGANPlan, AttGANRun, train_attgan
from fluxguard_core.mini.attribute_labels import ATTRIBUTES
from fluxguard_core.mini.attributes import attgan_path
from fluxguard_core.weights.loading import load_tensors

from .attributes_data import HAIR, Pairs, build_pairs
from .training import TrainPlan, note, start

SHAPE = AttGANShape(ATTRIBUTES, size=128, width=8, layers=5, shortcuts=4, injections=4, head=128)
PAIRS = 6000
TAUGHT = 0.85
"""Share of the run in which the generator learns; the rest is the classifier's."""
OFTEN = {
    "Wearing_Lipstick": 6.0,
    "Heavy_Makeup": 4.0,
    "No_Beard": 4.0,
    "Smiling": 4.0,
    "Wearing_Earrings": 4.0,
}
"""How often a pair is drawn in which this alone changes; another single change is drawn twice as often as many."""


def train_drawn_attgan(plan: TrainPlan) -> Path:
    """Train, resumably; returns the checkpoint (`attributes_ship` makes the shipped files of it).

    A resumed run without a checkpoint goes on from the packaged networks.
    """
    checkpoint, log = start("attgan", plan)
    pairs = build_pairs(plan.cache, min(PAIRS, plan.portraits.identities), SHAPE.size)
    settings = AttGANPlan(
        steps=plan.steps,
        rate=1e-3,
        taught=TAUGHT,
        alone=1 - TAUGHT,
        minutes=plan.minutes,
        seed=plan.seed + 31,
        device=plan.device,
        half=True,
    )
    run = AttGANRun.fresh(SHAPE, settings)
    if plan.resume and not checkpoint.is_file():
        run.before = take_up(run, attgan_path())
    draw = partial(pairs.draw, batch=plan.batch, chances=chances(pairs))
    train_attgan(run, draw, settings, checkpoint, partial(note, log))
    return checkpoint


def chances(pairs: Pairs) -> Tensor:
    """How often each pair is to be drawn [N]: small things that change alone most often, many changes least."""
    changed = torch.from_numpy(pairs.labels[:, 0] != pairs.labels[:, 1])
    often = torch.tensor([OFTEN.get(name, 2.0) for name in ATTRIBUTES])
    hair = torch.tensor([name in HAIR for name in ATTRIBUTES])
    things = changed[:, ~hair].sum(1) + changed[:, hair].any(1)
    alone = (changed * often).amax(1)
    return torch.where(things == 1, alone, torch.ones(len(changed)))


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
