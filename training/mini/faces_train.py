"""Training of the miniature's face networks: one resumable function for each part."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.faces_networks import CLASSES, AttributeNet, LandmarkNet, ParserNet
from fluxguard_core.mini.people import HELD_OUT_WORLD
from fluxguard_core.mini.portrait_spec import CHOICES

from .cache import CachePlan, PortraitCache, build_cache, open_cache
from .faces_data import (
    degrade,
    identity_parameters,
    random_affine,
    read,
    warp,
    warp_points,
    without_faces,
)
from .faces_fit import FitPlan, fit
from .faces_recognisers import RECIPES, MarginObjective, training_crops
from .faces_ship import (
    Trained,
    finish_attributes,
    finish_landmarks,
    finish_parser,
    finish_recogniser,
    round_to_half,
)
from .training import TrainPlan, start

JUDGED = 400
"""People to measure on, or as many as there are to train on where those are fewer."""


def held_out_portraits(plan: TrainPlan) -> PortraitCache:
    """People that no network is trained on; rendered on first use."""
    people = min(JUDGED, plan.portraits.identities)
    portraits = CachePlan(identities=people, shots=6, world=HELD_OUT_WORLD)
    try:
        return open_cache(plan.cache, portraits)
    except FluxGuardError:
        build_cache(plan.cache, portraits, workers=1)
        return open_cache(plan.cache, portraits)


def _prepared(network: nn.Module, plan: TrainPlan) -> nn.Module:
    moved: nn.Module = network.to(plan.device)
    return moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fast(images: Tensor, plan: TrainPlan) -> Tensor:
    return images.to(plan.device).contiguous(memory_format=torch.channels_last)


def _autocast(plan: TrainPlan, enabled: bool = True) -> torch.autocast:
    return torch.autocast(torch.device(plan.device).type, torch.bfloat16, enabled=enabled)


def _rows(portraits: PortraitCache, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, portraits.plan.count, (count,), generator=generator)


def _schedule(plan: TrainPlan, rate: float, seed: int) -> FitPlan:
    return FitPlan(plan.steps, plan.batch, rate, seed=seed, minutes=plan.minutes)


def _trained(plan: TrainPlan, samples: int, seed: int) -> Trained:
    return Trained(plan, samples, seed, held_out_portraits(plan))


def bookkeeping(plan: TrainPlan, name: str) -> tuple[Path, Callable[[str], None]]:
    """Checkpoint and log of a part."""
    checkpoint, log = start(name, plan)

    def write(line: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        print(line, flush=True)

    return checkpoint, write


def train_recogniser(plan: TrainPlan, name: str) -> Path:
    """Train one of RECIPES, measure it on held-out people, write its file with thresholds."""
    recipe, portraits = RECIPES[name], open_cache(plan.cache, plan.portraits)
    seed = recipe.seed + plan.seed
    torch.manual_seed(seed)
    network = _prepared(recipe.build(), plan)
    objective = MarginObjective(network, identity_parameters(portraits)).to(plan.device)
    schedule = _schedule(plan, recipe.rate, seed)

    def draw(step: int, generator: torch.Generator) -> Tensor:
        crops, people = training_crops(portraits, recipe, plan.batch, generator)
        margin = 0.3 * min(1.0, step / (0.3 * plan.steps))
        with _autocast(plan, recipe.half):
            raw = network(_fast(crops * 2 - 1, plan))
        return objective.loss(raw.float(), people.to(raw.device), margin)

    samples = fit(objective, draw, schedule, *bookkeeping(plan, name))
    round_to_half(network.cpu())
    return finish_recogniser(name, network, _trained(plan, samples, seed))


def train_landmarks(plan: TrainPlan) -> Path:
    """Five points and a face score: three quarters portraits, one quarter without a face."""
    seed = 21 + plan.seed
    torch.manual_seed(seed)
    portraits, network = open_cache(plan.cache, plan.portraits), _prepared(LandmarkNet(), plan)
    faces = plan.batch * 3 // 4

    def draw(step: int, generator: torch.Generator) -> Tensor:
        batch = read(portraits, _rows(portraits, plan.batch, generator).numpy())
        images, points = batch.images[:faces], batch.landmarks[:faces]
        if step % 2 == 0:
            back = random_affine(faces, 128, generator, scale=(0.45, 1.25), turn=20.0)
            images, points = warp(images, back), warp_points(points, back)
        others = without_faces(batch.part(slice(faces, None)), generator)
        images = degrade(torch.cat((images, others)), generator)
        with _autocast(plan):
            found, score = network(_fast(images, plan))
        return _landmark_loss(found, score, points.to(found.device))

    samples = fit(network, draw, _schedule(plan, 2e-3, seed), *bookkeeping(plan, "landmarks"))
    round_to_half(network.cpu())
    return finish_landmarks(network, _trained(plan, samples, seed))


def _landmark_loss(found: Tensor, score: Tensor, points: Tensor) -> Tensor:
    """Smooth L1 in pixels for faces wholly in view, cross entropy for "there is one"."""
    faces, count = len(points), len(score)
    inside = ((points > 2) & (points < 125)).all(-1).all(-1).float()
    error = F.smooth_l1_loss(found[:faces], points, reduction="none").mean((1, 2))
    truth = torch.cat((inside, inside.new_zeros(count - faces)))
    weight = torch.cat((inside.new_ones(faces), inside.new_full((count - faces,), 2.0)))
    seen = F.binary_cross_entropy_with_logits(score, truth, weight)
    return (error * inside).sum() / inside.sum().clamp_min(1) + 2.0 * seen


def train_parser(plan: TrainPlan) -> Path:
    """Nineteen classes at full resolution, rare classes weighted up."""
    seed = 22 + plan.seed
    torch.manual_seed(seed)
    portraits, network = open_cache(plan.cache, plan.portraits), _prepared(ParserNet(), plan)
    weights = class_weights(portraits).to(plan.device)

    def draw(step: int, generator: torch.Generator) -> Tensor:
        batch = read(portraits, _rows(portraits, plan.batch, generator).numpy())
        images, labels = batch.images, batch.labels
        if step % 3 == 0:
            back = random_affine(plan.batch, 128, generator, scale=(0.8, 1.3), turn=10.0)
            images = warp(images, back)
            labels = warp(labels[:, None].float(), back, nearest=True)[:, 0].long()
        images = degrade(images, generator)
        with _autocast(plan):
            logits = network(_fast(images, plan))
        return F.cross_entropy(logits.float(), labels.to(logits.device), weights)

    samples = fit(network, draw, _schedule(plan, 2.5e-3, seed), *bookkeeping(plan, "parser"))
    round_to_half(network.cpu())
    return finish_parser(network, _trained(plan, samples, seed))


def class_weights(portraits: PortraitCache) -> Tensor:
    """Inverse fourth root of each class's share of the pixels, mean one; absent classes one."""
    step = max(1, portraits.plan.count // 200)
    sample = torch.from_numpy(portraits.labels[::step].copy()).flatten().long()
    counts = torch.bincount(sample, minlength=CLASSES)
    share = counts.double() / counts.sum()
    weights = torch.where(counts > 0, share.clamp_min(1e-6).pow(-0.25), 1.0)
    return (weights / weights.mean()).float()


def train_attributes(plan: TrainPlan) -> Path:
    """One head for each attribute; a bald head's hair colour is left out of the loss."""
    seed = 23 + plan.seed
    torch.manual_seed(seed)
    portraits, network = open_cache(plan.cache, plan.portraits), _prepared(AttributeNet(), plan)
    bald = CHOICES["hair_style"].index("bald")
    style, colour = list(CHOICES).index("hair_style"), list(CHOICES).index("hair_colour")

    def draw(step: int, generator: torch.Generator) -> Tensor:
        batch = read(portraits, _rows(portraits, plan.batch, generator).numpy())
        images = degrade(batch.images, generator)
        with _autocast(plan):
            logits = network(_fast(images, plan))
        truth = batch.attributes.clone()
        truth[truth[:, style] == bald, colour] = -100
        truth = truth.to(plan.device)
        losses = [F.cross_entropy(logits[n], truth[:, i]) for i, n in enumerate(CHOICES)]
        return torch.stack(losses).sum()

    samples = fit(network, draw, _schedule(plan, 2e-3, seed), *bookkeeping(plan, "attributes"))
    round_to_half(network.cpu())
    return finish_attributes(network, _trained(plan, samples, seed))


def _train_part(plan: TrainPlan, name: str) -> None:
    others = {"landmarks": train_landmarks, "parser": train_parser, "attributes": train_attributes}
    if name in RECIPES:
        train_recogniser(plan, name)
    else:
        others[name](plan)


def _part(name: str, steps: int, batch: int) -> tuple[Callable[[TrainPlan], None], int, int]:
    return partial(_train_part, name=name), steps, batch


PARTS: dict[str, tuple[Callable[[TrainPlan], None], int, int]] = {
    **{name: _part(name, recipe.steps, 64) for name, recipe in RECIPES.items()},
    "landmarks": _part("landmarks", 3000, 32),
    "parser": _part("parser", 3000, 16),
    "attributes": _part("attributes", 3000, 48),
}
"""Part -> (trainer, default steps, default batch), for `python -m training.mini train`."""
