"""Training of the deepfake models that cloaks are measured against, and reading them as targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxguard_core.defences.attgan import AttGANShape, Discriminators
from fluxguard_core.defences.attribute_edit import AttributeEditor
from fluxguard_core.defences.cloak_targets import Deepfake
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.attribute_labels import ATTRIBUTES
from fluxguard_core.mini.attributes import drawn_editor
from fluxguard_core.mini.portrait_spec import identity
from fluxguard_core.mini.renderer import render_batch
from fluxguard_core.weights.loading import load_tensors

from .attributes_data import HAIR, build_pairs, pair_of
from .attributes_train import PAIRS
from .cache import TRAIN_WORLD
from .deepfakes import PatchCritic, SelectiveGenerator, StarGenerator, SwapPair, sized
from .deepfakes_game import Game, GamePlan, Round, Rules, train_game
from .training import TrainPlan

SIDE = 64
SWAPPED = 1000
"""People who are drawn once more with the faces of the two that a swap puts in."""
_WORLD_IN = 5
ASKED = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
"""What the models change, the domains of the published StarGAN that the renderer can draw: a large part of a picture,
learned in minutes."""
_ASKED = torch.tensor([name in ASKED for name in ATTRIBUTES])
SHAPE = AttGANShape(ASKED, size=SIDE, width=16, layers=4, head=128)
"""Of STGAN's critic, which is AttGAN's."""
_WARP = 0.06
"""Largest shift of a swap's inputs, as a share of the picture."""


def train_by_labels(plan: TrainPlan, name: str) -> Path:
    """StarGAN's or STGAN's generator, by the renderer's answers and then the published game; returns the file."""
    torch.manual_seed(plan.seed + 41)
    pairs = build_pairs(plan.cache, min(PAIRS, plan.portraits.identities), SIDE)

    turned = torch.from_numpy(pairs.labels[:, 0] != pairs.labels[:, 1])
    chances = (turned[:, _ASKED].any(1) & ~turned[:, ~_ASKED].any(1)).float()
    if not bool(chances.any()):
        raise FluxGuardError(
            "Nobody's hair alone changes its colour in these pairs; give more --people."
        )

    def draw(random: torch.Generator) -> Round:
        batch = pairs.draw(0, random, plan.batch, 0.0, chances)
        assert batch.answers is not None
        own, wanted = batch.labels[:, _ASKED], batch.wanted[:, _ASKED]
        return Round(batch.pictures, own, wanted, batch.answers, real=batch.pictures, shown=own)

    count = float(len(ASKED))
    if name == "stargan":
        rules = Rules(_star, _star_cycle, same=10.0, classify=count, draw=draw, answers=50.0)
        game = Game.fresh(NETWORKS[name](), PatchCritic(len(ASKED)))
        settings = GamePlan(taught=0.85)
    else:
        rules = Rules(_selective, _selective_same, same=100.0, classify=10.0, draw=draw)
        game = Game.fresh(NETWORKS[name](), Discriminators(SHAPE))
        settings = GamePlan(warm=4e-3)
    return train_game(name, game, rules, plan, settings, look=partial(_look, name))


def _star(network: nn.Module, turn: Round) -> Tensor:
    out: Tensor = network(turn.pictures, turn.wanted)
    return out


def _star_cycle(network: nn.Module, turn: Round, edited: Tensor) -> Tensor:
    return F.l1_loss(network(edited, turn.labels).float(), turn.pictures)


def _selective(network: nn.Module, turn: Round) -> Tensor:
    out: Tensor = network(turn.pictures, turn.wanted - turn.labels)
    return out


def _selective_same(network: nn.Module, turn: Round, edited: Tensor) -> Tensor:
    nothing = torch.zeros_like(turn.labels)
    return F.l1_loss(network(turn.pictures, nothing).float(), turn.pictures)


def train_swap(plan: TrainPlan) -> Path:
    """The swap: either person in the shots of others, and each from warped pictures of themselves; returns the file."""
    torch.manual_seed(plan.seed + 43)
    count = min(SWAPPED, plan.portraits.identities)
    plain, answers = swapped_pictures(plan.cache, count)

    def draw(random: torch.Generator) -> Round:
        rows = torch.randint(0, count, (plan.batch,), generator=random).numpy()
        other = torch.randint(0, count, (plan.batch,), generator=random).numpy()
        who = torch.randint(0, 2, (plan.batch,), generator=random)
        x, y = _signed(plain[rows]), _signed(answers[who.numpy(), rows])
        real = _signed(answers[who.numpy(), other])
        if float(torch.rand((), generator=random)) < 0.5:
            x, y, real = x.flip(-1), y.flip(-1), real.flip(-1)
        asked = F.one_hot(who, 2).float()
        return Round(warped(x, random), asked, asked, y, real=real, shown=asked)

    rules = Rules(_swap, _swap_same, same=10.0, classify=2.0, draw=draw, answers=50.0)
    game = Game.fresh(SwapPair(), PatchCritic(2))
    settings = GamePlan(taught=0.85)
    return train_game("swap", game, rules, plan, settings, look=partial(_look, "swap"))


def _swap(network: nn.Module, turn: Round) -> Tensor:
    out: Tensor = network(turn.pictures, turn.wanted.argmax(1))
    return out


def _swap_same(network: nn.Module, turn: Round, edited: Tensor) -> Tensor:
    """A person's own warped picture through their own decoder, as the published swap learns."""
    random = torch.Generator().manual_seed(int(turn.real.sum().abs() * 1000) % 2**31)
    own = network(warped(turn.real, random), turn.shown.argmax(1))
    return F.l1_loss(own.float(), turn.real)


def warped(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Pictures [B, 3, S, S] pulled about on a grid of 5 x 5, as the swap's published training does."""
    count, side = len(pictures), pictures.shape[-1]
    pull = (torch.rand(count, 2, 5, 5, generator=random) * 2 - 1) * 2 * _WARP
    pull = F.interpolate(pull, (side, side), mode="bicubic", align_corners=True)
    still = F.affine_grid(torch.eye(2, 3).expand(count, -1, -1), [count, 3, side, side], False)
    where = still + pull.permute(0, 2, 3, 1)
    return F.grid_sample(pictures, where, padding_mode="border", align_corners=False)


def _signed(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(images)).float().div_(127.5).sub_(1.0)


def _look(name: str, network: nn.Module, step: int) -> str:
    """What ascent on each of 16 held-out people breaks: whether the model can be broken at all."""
    from .deepfakes_quality import breakable

    network.requires_grad_(False)
    model = _target(name, _maker(name, network), _reading(drawn_editor()))
    share, error = breakable(model, 16)
    network.requires_grad_(True)
    return f"step {step}: ascent breaks {share:.0%} of 16 (masked error {error:.3f})"


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
    "stargan": partial(StarGenerator, len(ASKED)),
    "stgan": partial(SelectiveGenerator, len(ASKED)),
    "swap": SwapPair,
}


@dataclass(frozen=True, eq=False)
class Models:
    """Every deepfake model by name; `unseen` takes no part in a cloak's training.

    Args:
        told: by name, a model that is told what the pictures show, labels [B, n] in 0 and 1.
    """

    seen: tuple[Deepfake, ...]
    unseen: tuple[Deepfake, ...]
    told: Mapping[str, Callable[[Tensor], Deepfake]]
    read: Callable[[Tensor], Tensor]

    def asked_of(self, model: Deepfake, plain: Tensor) -> Deepfake:
        """The model as whoever uses it does: told what the plain pictures [B, 3, H, W] show, whatever it is given.

        Else a cloak would count that only makes the classifier err which reads the labels.
        """
        return self.told[model.name](self.read(plain))


UNSEEN = "stgan"


def load_models(folder: Path) -> Models:
    """The trained models of a folder and the packaged AttGAN, for faces in the portraits' frame, of any size.

    A swap that is not there is left out; it takes a cloak's budget and hardly breaks.
    """
    editor = drawn_editor()
    read = _reading(editor)
    made: dict[str, _Make] = {"attgan": partial(_attgan, editor)}
    for name, build in NETWORKS.items():
        file = folder / f"{name}.safetensors"
        if name == "swap" and not file.is_file():
            continue
        if not file.is_file():
            raise FluxGuardError(
                f"There is no {name} in {folder}; run `python -m training.mini train {name} --out {folder}`."
            )
        network = build()
        network.load_state_dict(load_tensors(file)[0])
        made[name] = _maker(name, network.eval().requires_grad_(False))
    told = {name: partial(_target, name, make) for name, make in made.items()}
    found = {name: _target(name, make, read) for name, make in made.items()}
    seen = tuple(model for name, model in found.items() if name != UNSEEN)
    return Models(seen, (found[UNSEEN],), told, read)


_Make = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Pictures [B, 3, H, W] in [0, 1], what they show and what is wanted [B, n] -> faces [B, 3, S, S]."""


def _attgan(editor: AttributeEditor, pictures: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    changed = editor.decode(editor.encode(sized(pictures, editor.size)), wanted)
    return sized(changed, SIDE)


def _maker(name: str, network: nn.Module) -> _Make:
    def make(pictures: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
        faces = sized(pictures, SIDE)
        if name == "swap":
            asked = wanted[:, 0].long()
        else:
            asked = wanted[:, _ASKED]
            asked = asked - own[:, _ASKED] if name == "stgan" else asked
        out: Tensor = (network(faces * 2 - 1, asked) + 1) / 2
        return out

    return make


def _reading(editor: AttributeEditor) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def read(pictures: Tensor) -> Tensor:
        return (editor.classify(sized(pictures, editor.size)) > 0.5).to(pictures)

    return read


def turned(labels: Tensor, conditions: Tensor) -> Tensor:
    """Labels [B, 12] with the condition's hair colour, or without it where it is there, as StarGAN asks: one at a time."""
    asked = F.one_hot(torch.nonzero(_ASKED)[:, 0][conditions], len(ATTRIBUTES)).to(labels)
    put_on = (asked * (1 - labels)).sum(1, keepdim=True)
    hair = torch.tensor([name in HAIR for name in ATTRIBUTES]).to(labels)
    return labels * (1 - asked) * (1 - hair * put_on) + asked * put_on


def _target(name: str, make: _Make, told: Tensor | Callable[[Tensor], Tensor]) -> Deepfake:
    """A model whose labels are given, or read from every picture that it is given."""

    def fake(pictures: Tensor, conditions: Tensor) -> Tensor:
        if name == "swap":
            return make(pictures, conditions[:, None], conditions[:, None])
        labels = told if isinstance(told, Tensor) else told(pictures)
        return make(pictures, labels, turned(labels, conditions))

    return Deepfake(name, 2 if name == "swap" else len(ASKED), fake)
