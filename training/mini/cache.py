"""Rendered portraits on disk, for the training of every part.

Layout of a cache folder (N = identities * shots, row n = identity n // shots, shot n % shots):

    images.u8       [N,3,S,S] uint8, RGB, raw memory map
    labels.u8       [N,S,S]   uint8, CelebAMask-HQ ids, raw memory map
    landmarks.f32   [N,5,2]   float32, pixels (x, y), raw memory map
    attributes.u8   [N,A]     uint8, index into portrait_spec.CHOICES[name] in that order
    done.u8         [chunks]  1 where a chunk of CHUNK rows is written
    cache.json      {"identities", "shots", "size", "world", "version"}

Specs are not stored: `spec_of(world, identity, shot)` draws the same one again.
"""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.people import spec_of
from fluxguard_core.mini.portrait_spec import CHOICES, Attributes, PortraitSpec
from fluxguard_core.mini.renderer import render_batch

TRAIN_WORLD = 2026
CHUNK = 64
VERSION = 1


@dataclass(frozen=True)
class CachePlan:
    """What a cache holds."""

    identities: int = 6000
    shots: int = 8
    size: int = 128
    world: int = TRAIN_WORLD
    version: int = VERSION

    @property
    def count(self) -> int:
        """Number of portraits."""
        return self.identities * self.shots


@dataclass(frozen=True, eq=False)
class PortraitCache:
    """Read-only memory maps; see the module's text for shapes."""

    plan: CachePlan
    images: np.ndarray
    labels: np.ndarray
    landmarks: np.ndarray
    attributes: np.ndarray

    def spec(self, row: int) -> PortraitSpec:
        """The spec of a row."""
        return spec_of(self.plan.world, row // self.plan.shots, row % self.plan.shots)

    def attributes_of(self, row: int) -> Attributes:
        """The attributes of a row."""
        codes = zip(CHOICES.items(), self.attributes[row], strict=True)
        return Attributes(**{name: values[int(code)] for (name, values), code in codes})

    def identity_ids(self) -> np.ndarray:
        """[N] int64: which person each row shows."""
        return np.arange(self.plan.count) // self.plan.shots


def default_cache() -> Path:
    """~/.cache/fluxguard."""
    return Path.home() / ".cache" / "fluxguard"


def cache_folder(root: Path, plan: CachePlan) -> Path:
    """One folder for each plan."""
    name = f"portraits-{plan.size}-{plan.world}-{plan.identities}x{plan.shots}-v{plan.version}"
    return root / name


def _maps(folder: Path, plan: CachePlan, mode: str) -> dict[str, np.ndarray]:
    n, s = plan.count, plan.size
    shapes = {
        "images.u8": (np.uint8, (n, 3, s, s)),
        "labels.u8": (np.uint8, (n, s, s)),
        "landmarks.f32": (np.float32, (n, 5, 2)),
        "attributes.u8": (np.uint8, (n, len(CHOICES))),
        "done.u8": (np.uint8, ((n + CHUNK - 1) // CHUNK,)),
    }
    maps: dict[str, np.ndarray] = {}
    for name, (kind, shape) in shapes.items():
        path = folder / name
        first = mode == "w" and not path.exists()
        maps[name] = np.memmap(
            path, kind, "w+" if first else ("r+" if mode == "w" else "r"), shape=shape
        )
    return maps


def attribute_codes(spec: PortraitSpec) -> list[int]:
    """Index of each attribute's value in CHOICES."""
    return [values.index(getattr(spec.attributes, name)) for name, values in CHOICES.items()]


def _write(folder: Path, plan: CachePlan, worker: int, workers: int) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    maps = _maps(folder, plan, "w")
    for chunk in range(worker, len(maps["done.u8"]), workers):
        if maps["done.u8"][chunk]:
            continue
        stop = min((chunk + 1) * CHUNK, plan.count)
        for start in range(chunk * CHUNK, stop, 16):
            rows = range(start, min(start + 16, stop))
            specs = [spec_of(plan.world, r // plan.shots, r % plan.shots) for r in rows]
            images, labels, landmarks = render_batch(specs, plan.size)
            at = slice(rows[0], rows[-1] + 1)
            maps["images.u8"][at] = (images * 255.0 + 0.5).to(torch.uint8).numpy()
            maps["labels.u8"][at] = labels.numpy()
            maps["landmarks.f32"][at] = landmarks.numpy()
            maps["attributes.u8"][at] = [attribute_codes(s) for s in specs]
        maps["done.u8"][chunk] = 1


def build_cache(root: Path, plan: CachePlan, workers: int = 2) -> Path:
    """Render what is missing, with so many processes; returns the folder. Safe to interrupt."""
    folder = cache_folder(root, plan)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cache.json").write_text(json.dumps(asdict(plan), indent=1), encoding="utf-8")
    _maps(folder, plan, "w")
    context = multiprocessing.get_context("spawn")
    jobs = [context.Process(target=_write, args=(folder, plan, w, workers)) for w in range(workers)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    if any(job.exitcode for job in jobs):
        raise FluxGuardError(f"Rendering into {folder} stopped early; run the command again.")
    return folder


def _command(root: Path, plan: CachePlan) -> str:
    return f"python -m training.mini train renderer-cache --people {plan.identities} --cache {root}"


def open_cache(root: Path, plan: CachePlan | None = None) -> PortraitCache:
    """A finished cache; the error of an unfinished one says how to make it."""
    plan = CachePlan() if plan is None else plan
    folder = cache_folder(root, plan)
    if not (folder / "cache.json").exists():
        raise FluxGuardError(f"No portraits in {folder}; run `{_command(root, plan)}`.")
    maps = _maps(folder, plan, "r")
    missing = int((maps["done.u8"] == 0).sum())
    if missing:
        raise FluxGuardError(
            f"{missing} of {len(maps['done.u8'])} chunks in {folder} are missing; run "
            f"`{_command(root, plan)}` again, it continues."
        )
    return PortraitCache(
        plan, maps["images.u8"], maps["labels.u8"], maps["landmarks.f32"], maps["attributes.u8"]
    )
