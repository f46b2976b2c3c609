"""Training of the deepfake models that cloaks are measured against, and reading them as targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from fluxguard_core.defences.attgan_losses import answer_loss
from fluxguard_core.defences.attribute_edit import AttributeEditor
from fluxguard_core.defences.cloak_faces import attribute_fake
from fluxguard_core.defences.cloak_targets import Deepfake
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.attribute_labels import ATTRIBUTES
from fluxguard_core.mini.attributes import drawn_editor
from fluxguard_core.mini.portrait_spec import identity
from fluxguard_core.mini.renderer import render_batch
from fluxguard_core.weights.loading import load_tensors

from .attributes_data import build_pairs, pair_of
from .attributes_train import PAIRS
from .cache import TRAIN_WORLD
from .deepfakes import SelectiveGenerator, StarGenerator, SwapPair, sized
from .training import Recipe, TrainPlan, TrainState, train

SIDE = 64
SWAPPED = 1000
"""People who are drawn once more with the faces of the two that a swap puts in."""
_WORLD_IN = 5
RECIPE = Recipe(2e-3, decay=0.0, average=0.99, log_every=100)

Step = Callable[[nn.Module, torch.Generator], Tensor]


def train_by_labels(plan: TrainPlan, name: str) -> Path:
    """StarGAN's or STGAN's generator by the renderer's answers; returns the file."""
    torch.manual_seed(plan.seed + 41)
    network = NETWORKS[name]()
    pairs = build_pairs(plan.cache, min(PAIRS, plan.portraits.identities), SIDE)

    def step(module: nn.Module, random: torch.Generator) -> Tensor:
        batch = pairs.draw(0, random, plan.batch)
        assert batch.answers is not None
        asked = batch.wanted if name == "stargan" else batch.wanted - batch.labels
        return answer_loss(module(batch.pictures, asked).float(), batch.pictures, batch.answers)

    return _trained(plan, name, network, step)


def train_swap(plan: TrainPlan) -> Path:
    """The swap, by the renderer's answers: either person in the shots of others; returns the file."""
    torch.manual_seed(plan.seed + 43)
    count = min(SWAPPED, plan.portraits.identities)
    plain, answers = swapped_pictures(plan.cache, count)

    def step(module: nn.Module, random: torch.Generator) -> Tensor:
        rows = torch.randint(0, count, (plan.batch,), generator=random)
        who = torch.randint(0, 2, (plan.batch,), generator=random)
        x, y = (_signed(plain[rows.numpy()]), _signed(answers[who.numpy(), rows.numpy()]))
        if float(torch.rand((), generator=random)) < 0.5:
            x, y = x.flip(-1), y.flip(-1)
        return F.l1_loss(module(x, who).float(), y)

    return _trained(plan, "swap", SwapPair(), step)


def _signed(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(images)).float().div_(127.5).sub_(1.0)


def _trained(plan: TrainPlan, name: str, network: nn.Module, step: Step) -> Path:
    def loss(state: TrainState, progress: float) -> tuple[Tensor, dict[str, float]]:
        random = torch.Generator().manual_seed(1_000_003 * plan.seed + state.step)
        return step(state.module, random), {}

    made = train(name, network, loss, plan, RECIPE)
    file = plan.out / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, file, {"kind": name})
    print(f"Written {file.name}")
    return file


def swapped_pictures(root: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Portraits [N, 3, S, S] and both persons in the same shots [2, N, 3, S, S], uint8; drawn on first use."""
    file = root / f"swapped-{SIDE}-{count}.npz"
    if not file.is_file():
        faces = [identity(np.random.default_rng([_WORLD_IN, k, 0])) for k in range(2)]
        drawn = []
        for start in range(0, count, 50):
            specs = [pair_of(TRAIN_WORLD, p)[0] for p in range(start, min(count, start + 50))]
            sides = [specs, *([replace(s, identity=face) for s in specs] for face in faces)]
            drawn.append(torch.stack([render_batch(side, SIDE)[0] for side in sides]))
        whole = (torch.cat(drawn, 1) * 255).round().byte().numpy()
        root.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part.npz")
        np.savez(part, plain=whole[0], answers=whole[1:])
        part.replace(file)
    with np.load(file) as held:
        return held["plain"], held["answers"]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "stargan": partial(StarGenerator, len(ATTRIBUTES)),
    "stgan": partial(SelectiveGenerator, len(ATTRIBUTES)),
    "swap": SwapPair,
}


@dataclass(frozen=True, eq=False)
class Models:
    """Every deepfake model by name; `unseen` takes no part in a cloak's training."""

    seen: tuple[Deepfake, ...]
    unseen: tuple[Deepfake, ...]


UNSEEN = "stgan"


def load_models(folder: Path) -> Models:
    """The trained models of a folder and the packaged AttGAN, for faces in the portraits' frame, of any size."""
    editor = drawn_editor()
    found = {"attgan": replace(attribute_fake(editor), name="attgan")}
    for name, build in NETWORKS.items():
        file = folder / f"{name}.safetensors"
        if not file.is_file():
            raise FluxGuardError(
                f"There is no {name} in {folder}; run `python -m training.mini train {name} --out {folder}`."
            )
        network = build()
        network.load_state_dict(load_tensors(file)[0])
        found[name] = _target(name, network.eval().requires_grad_(False), editor)
    seen = tuple(model for name, model in found.items() if name != UNSEEN)
    return Models(seen, (found[UNSEEN],))


def _target(name: str, network: nn.Module, editor: AttributeEditor) -> Deepfake:
    if name == "swap":
        return Deepfake(name, 2, lambda pictures, who: _made(network, pictures, who))

    def make(pictures: Tensor, conditions: Tensor) -> Tensor:
        with torch.no_grad():
            labels = (editor.classify(sized(pictures, editor.size)) > 0.5).to(pictures)
        turned = F.one_hot(conditions, len(ATTRIBUTES)).to(pictures)
        wanted = labels + turned - 2 * labels * turned
        return _made(network, pictures, wanted if name == "stargan" else wanted - labels)

    return Deepfake(name, len(ATTRIBUTES), make)


def _made(network: nn.Module, pictures: Tensor, asked: Tensor) -> Tensor:
    out: Tensor = (network(sized(pictures, SIDE) * 2 - 1, asked) + 1) / 2
    return out
