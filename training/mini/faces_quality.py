"""What the miniature's face networks reach on people they were not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fluxguard_core.faces.face import FaceFinder
from fluxguard_core.mini.faces_networks import CLASSES
from fluxguard_core.mini.portrait_spec import CHOICES

from .cache import PortraitCache
from .faces_data import Portraits, degrade, random_affine, read, warp, warp_points, without_faces

UNSEEN_WHEN_BALD = ("hair_colour",)


def batches(cache: PortraitCache, count: int, size: int = 32) -> Iterator[Portraits]:
    """`count` portraits spread evenly over a cache, or all of a smaller one."""
    step = max(1, cache.plan.count // count)
    rows = torch.arange(0, cache.plan.count, step)[:count]
    for start in range(0, len(rows), size):
        yield read(cache, rows[start : start + size].numpy())


@dataclass(frozen=True)
class FinderQuality:
    """Mean and worst-5 % point error in pixels of a 128 picture, of found faces, and rates.

    `found` is the share of portraits with a face found, `false` that of faceless pictures; without
    any face found the errors are nan;
    `warped` is the mean error on turned, shifted and zoomed portraits, in pixels of the portrait.
    """

    error: float
    error95: float
    warped: float
    degraded: float
    found: float
    found_warped: float
    false: float


def _errors(find: FaceFinder, images: Tensor, truth: Tensor) -> tuple[list[float], int]:
    errors, missed = [], 0
    for image, points in zip(images, truth, strict=True):
        faces = find(image)
        if faces and faces[0].landmarks is not None:
            errors.append(float((faces[0].landmarks - points).norm(dim=1).mean()))
        else:
            missed += 1
    return errors, missed


def measure_finder(find: FaceFinder, cache: PortraitCache, count: int = 256) -> FinderQuality:
    """Accuracy of the landmarks and of the face decision on a held-out cache."""
    generator = torch.Generator().manual_seed(9)
    plain: list[float] = []
    turned: list[float] = []
    worn: list[float] = []
    missed = missed_warped = false = shown = 0
    for batch in batches(cache, count):
        shown += len(batch.images)
        found, gone = _errors(find, batch.images, batch.landmarks)
        plain, missed = plain + found, missed + gone
        found, _ = _errors(find, degrade(batch.images, generator, 0.5), batch.landmarks)
        worn += found
        back = random_affine(len(batch.images), 128, generator, scale=(0.6, 1.1), turn=15.0)
        points = warp_points(batch.landmarks, back)
        found, gone = _errors(find, warp(batch.images, back), points)
        turned, missed_warped = turned + found, missed_warped + gone
        false += sum(bool(find(image)) for image in without_faces(batch, generator))
    return FinderQuality(
        float(torch.tensor(plain).mean()),
        float(torch.tensor(plain).quantile(0.95)) if plain else float("nan"),
        float(torch.tensor(turned).mean()),
        float(torch.tensor(worn).mean()),
        1 - missed / shown,
        1 - missed_warped / shown,
        false / shown,
    )


def measure_parser(
    parse: Callable[[Tensor], Tensor], cache: PortraitCache, count: int = 256
) -> tuple[float, list[float | None], float]:
    """Mean IoU over the classes that occur, IoU by class (None: absent), pixel accuracy."""
    table = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
    for batch in batches(cache, count):
        for image, labels in zip(batch.images, batch.labels, strict=True):
            pairs = labels * CLASSES + parse(image).long()
            table += torch.bincount(pairs.flatten(), minlength=CLASSES**2).view(CLASSES, CLASSES)
    hits, truth, found = table.diag(), table.sum(1), table.sum(0)
    union = truth + found - hits
    ious = [
        None if int(truth[c]) == 0 else float(hits[c]) / max(1.0, float(union[c]))
        for c in range(CLASSES)
    ]
    present = [value for value in ious if value is not None]
    return sum(present) / len(present), ious, float(hits.sum()) / float(table.sum())


def measure_attributes(
    classify: Callable[[Tensor], list[dict[str, str]]],
    cache: PortraitCache,
    count: int = 512,
    *,
    degraded: bool = False,
) -> dict[str, float]:
    """Share of right answers by attribute; a bald head's hair colour is not asked."""
    names = list(CHOICES)
    right, asked = torch.zeros(len(names)), torch.zeros(len(names))
    generator = torch.Generator().manual_seed(9)
    for batch in batches(cache, count):
        images = degrade(batch.images, generator, 0.5) if degraded else batch.images
        for answer, codes in zip(classify(images), batch.attributes.tolist(), strict=True):
            bald = CHOICES["hair_style"][codes[names.index("hair_style")]] == "bald"
            for index, name in enumerate(names):
                if bald and name in UNSEEN_WHEN_BALD:
                    continue
                asked[index] += 1
                right[index] += CHOICES[name][codes[index]] == answer[name]
    return {name: float(right[i] / asked[i]) for i, name in enumerate(names)}
