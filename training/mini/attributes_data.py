"""Pairs for the drawn AttGAN: a person, and the same person in the same shot with other attributes.

Layout of a folder (N pairs):

    before.u8  [N,3,S,S] uint8     after.u8  [N,3,S,S] uint8
    labels.u8  [N,2,A]   uint8: of both, in the order of `attribute_labels.ATTRIBUTES`
    done.u8    [chunks]  1 where a chunk is written
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fluxguard_core.defences.attgan_losses import LabelledBatch
from fluxguard_core.mini.attribute_labels import ATTRIBUTES, attributes_with, labels_of
from fluxguard_core.mini.people import HELD_OUT_WORLD
from fluxguard_core.mini.portrait_spec import PortraitSpec, random_attributes, with_attributes
from fluxguard_core.mini.renderer import render_batch

from .cache import TRAIN_WORLD, spec_of

CHUNK = 50
CHANGED = 0.35
HAIR = ("Bald", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Read-only memory maps; see the module's text."""

    before: np.ndarray
    after: np.ndarray
    labels: np.ndarray

    def draw(
        self,
        step: int,
        generator: torch.Generator,
        batch: int,
        halves: float = 0.25,
        chances: Tensor | None = None,
    ) -> LabelledBatch:
        """A batch with answers, in either direction, mirrored at random; a share of `halves` is half an edit.

        Half an edit, λ of the way between the labels, has λ of the way between the pictures as its answer: then
        the generator's strength can be turned up and down. `chances` [N] says how often each pair is drawn; None, all
        alike.
        """
        if chances is None:
            drawn = torch.randint(0, len(self.before), (batch,), generator=generator)
        else:
            drawn = torch.multinomial(chances, batch, replacement=True, generator=generator)
        rows = drawn.numpy()
        pictures = [_signed(maps[rows]) for maps in (self.before, self.after)]
        labels = torch.from_numpy(self.labels[rows]).float()
        turned = (torch.rand(batch, generator=generator) < 0.5).long()
        own, other = labels[range(batch), turned], labels[range(batch), 1 - turned]
        back = turned.bool()[:, None, None, None]
        first, second = pictures
        x, y = torch.where(back, second, first), torch.where(back, first, second)
        share = torch.rand(batch, generator=generator)
        share = torch.where(
            torch.rand(batch, generator=generator) < 1 - halves, torch.ones(batch), share
        )
        wanted = own + share[:, None] * (other - own)
        answers = x + share[:, None, None, None] * (y - x)
        flip = bool(torch.rand((), generator=generator) < 0.5)
        if flip:
            x, answers = x.flip(-1), answers.flip(-1)
        return LabelledBatch(x, own, wanted, answers)


def _signed(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).float().div_(127.5).sub_(1.0)


def changed_labels(own: tuple[int, ...], rng: np.random.Generator) -> dict[str, int]:
    """Some labels turned, at random; hair stays one thing, drawn anew where it changes."""
    labels = dict(zip(ATTRIBUTES, own, strict=True))
    for name in ATTRIBUTES:
        if name not in HAIR and rng.random() < CHANGED:
            labels[name] = 1 - labels[name]
    if rng.random() < 2 * CHANGED:
        chosen = HAIR[int(rng.integers(len(HAIR)))]
        labels |= {name: int(name == chosen) for name in HAIR}
    return labels


def one_changed(own: tuple[int, ...], rng: np.random.Generator) -> dict[str, int]:
    """One label turned, or the hair made another.

    Where several change, hair is most of what does, and a generator learns nothing of lips.
    """
    labels = dict(zip(ATTRIBUTES, own, strict=True))
    name = ATTRIBUTES[int(rng.integers(len(ATTRIBUTES)))]
    if name not in HAIR:
        return labels | {name: 1 - labels[name]}
    others = [key for key in HAIR if not labels[key]]
    chosen = others[int(rng.integers(len(others)))]
    return labels | {key: int(key == chosen) for key in HAIR}


def pair_of(world: int, person: int, shot: int = 0) -> tuple[PortraitSpec, PortraitSpec]:
    """A person and the answer to an edit of them; of every other person one thing alone changes."""
    rng = np.random.default_rng([world, person, shot, 15])
    first = spec_of(world, person, shot)
    # Bald heads and hats are rare in the renderer's draws; here they are not.
    extra = {"hair_style": "bald"} if rng.random() < 0.1 else {}
    if rng.random() < 0.15:
        extra["hat"] = random_attributes(rng).hat
    first = with_attributes(first, **extra)
    change = one_changed if person % 2 else changed_labels
    wanted = change(labels_of(vars(first.attributes)), rng)
    after = attributes_with(first.attributes, wanted)
    return first, with_attributes(first, **vars(after))


def pairs_folder(root: Path, people: int, size: int) -> Path:
    """One folder for each size and number."""
    return root / f"attribute-pairs-{size}-{TRAIN_WORLD}-{people}"


def build_pairs(root: Path, people: int, size: int) -> Pairs:
    """Render what is missing, resumably; returns the maps."""
    folder = pairs_folder(root, people, size)
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {
        "before": (people, 3, size, size),
        "after": (people, 3, size, size),
        "labels": (people, 2, len(ATTRIBUTES)),
        "done": ((people + CHUNK - 1) // CHUNK,),
    }
    maps = {name: _map(folder / f"{name}.u8", shape) for name, shape in shapes.items()}
    for chunk in np.flatnonzero(maps["done"] == 0):
        at = range(int(chunk) * CHUNK, min(people, (int(chunk) + 1) * CHUNK))
        specs = [pair_of(TRAIN_WORLD, p) for p in at]
        for name, column in (("before", 0), ("after", 1)):
            images, _, _ = render_batch([s[column] for s in specs], size)
            maps[name][at.start : at.stop] = (images * 255).round().byte().numpy()
        told = [[labels_of(vars(s.attributes)) for s in pair] for pair in specs]
        maps["labels"][at.start : at.stop] = np.array(told)
        maps["done"][chunk] = 1
    return Pairs(maps["before"], maps["after"], maps["labels"])


def _map(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.memmap(path, np.uint8, "r+" if path.exists() else "w+", shape=shape)


def held_out_pair(person: int) -> tuple[PortraitSpec, PortraitSpec]:
    """A pair of a person that no network was trained on."""
    return pair_of(HELD_OUT_WORLD, person)
