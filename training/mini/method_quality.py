"""The whole method, measured on the miniature: edit, background, protection, against noise and blur."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fluxguard_core.backends.geometry import FLUX
from fluxguard_core.evaluate.baselines import at_equal_ssim, blurred, noisy
from fluxguard_core.evaluate.likeness import likeness
from fluxguard_core.evaluate.quality import masked_psnr, ssim
from fluxguard_core.evaluate.similarity import Recognition, Shot, measure
from fluxguard_core.flow import Trajectory
from fluxguard_core.mini.captions import caption, parse_caption
from fluxguard_core.mini.faces import classify_attributes
from fluxguard_core.mini.portrait_spec import PortraitSpec, with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.pipelines.models import Models
from fluxguard_core.pipelines.photo import Wishes, protect_photo
from fluxguard_core.pipelines.portrait import Job, Outcome, invert_portrait
from fluxguard_core.protect.presets import Preset
from fluxguard_core.regions import soft_mask

from .method_rows import Row, append_row, read_rows, rounded, run_header
from .quality import held_out_specs

# What is asked for, and the attributes the portrait has before, so that every edit is one.
EDITS: dict[str, tuple[str, dict[str, str]]] = {
    "red lipstick": ("a person wearing red lipstick", {"lipstick": "none"}),
    "eyeglasses": ("a person wearing eyeglasses", {"eyeglasses": "no"}),
    "blue eyeshadow": (
        "a person wearing blue eyeshadow",
        {"eyeshadow": "none", "eyeglasses": "no"},
    ),
    "beard": ("a person with a beard", {"beard": "no"}),
    "smile": ("a person smiling", {"smile": "no"}),
}


def measure_method(
    models: Models,
    preset: Preset,
    portraits: int,
    logs: Sequence[Path] = (),
    *,
    first: int = 0,
    edits: Sequence[str] = tuple(EDITS),
    on_portrait: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Rows of ``portraits`` held-out people from number ``first`` on, and every edit.

    Args:
        logs: what stands in them is not measured again; new rows go to the first. Two processes may
            measure different people into a log each, and a third call put both together.
        on_portrait: told how many of how many people are done.

    Raises:
        FluxGuardError: a log is of another preset or other weights.
    """
    header, wanted = run_header(preset), range(first, first + portraits)
    known = {(row.portrait, row.edit): row for log in logs for row in read_rows(log, header)}
    rows: list[Row] = []
    for index, spec in zip(wanted, held_out_specs(portraits, first), strict=True):
        trajectories: dict[PortraitSpec, Trajectory] = {}
        for name in edits:
            row = known.get((index, name))
            if row is None:
                row = rounded(_measured(models, preset, index, spec, name, trajectories))
                if logs:
                    append_row(logs[0], header, row)
            rows.append(row)
        if on_portrait is not None:
            on_portrait(index - first + 1, portraits)
    return rows


def _measured(
    models: Models,
    preset: Preset,
    index: int,
    spec: PortraitSpec,
    name: str,
    trajectories: dict[PortraitSpec, Trajectory],
) -> Row:
    """One row; ``trajectories`` keeps the person's inversions, for several edits share a source."""
    words, before = EDITS[name]
    portrait = render(with_attributes(spec, **before))
    picture, source_prompt = portrait.image[None], caption(portrait.spec.attributes)
    if portrait.spec not in trajectories:
        trajectories[portrait.spec] = invert_portrait(models, picture, source_prompt, preset)
    result = protect_photo(
        models,
        picture,
        Wishes(prompt=words, source_prompt=source_prompt, preset=preset, seed=index),
        measuring=None,
        trajectory=trajectories[portrait.spec],
    )
    return _row(models, result.job, result.outcome, index, name)


def _row(models: Models, job: Job, outcome: Outcome, index: int, name: str) -> Row:
    edited, protected, photo = outcome.edited, outcome.protected, job.picture
    areas = edit_areas(job.mask)
    joined = {area: torch.maximum(mask, outcome.region) for area, mask in areas.items()}
    closeness = ssim(protected, edited)
    noise, blur = _rivals(edited, closeness, outcome.region, index)
    found = _cosines(models, job, edited, protected)
    rivals = _cosines(models, job, noise, blur)
    seen = classify_attributes(edited)[0]
    return Row(
        portrait=index,
        edit=name,
        hit=all(seen[key] == value for key, value in parse_caption(EDITS[name][0]).items()),
        edit_outside={area: psnr_outside(edited, photo, mask) for area, mask in areas.items()},
        edit_share={area: _share_outside(mask) for area, mask in areas.items()},
        protected_outside={
            area: psnr_outside(protected, photo, mask) for area, mask in joined.items()
        },
        protected_share={area: _share_outside(mask) for area, mask in joined.items()},
        ssim=closeness,
        thresholds={r.name: float(r.threshold or 0) for r in found},
        attacked={r.name: r.attacked for r in found},
        edited={r.name: r.edited for r in found},
        protected={r.name: r.protected for r in found},
        noise={r.name: r.edited for r in rivals},
        blur={r.name: r.protected for r in rivals},
        likeness=_likeness(job, edited, protected),
    )


def _likeness(job: Job, edited: Tensor, protected: Tensor) -> dict[str, float] | None:
    """What friends see of the protection; a picture that it left alone is 100 dB from itself."""
    points = job.face.landmarks
    if points is None:
        return None
    found = asdict(likeness(edited, protected, points))
    return {**found, "psnr": min(found["psnr"], 100.0)}


def edit_areas(mask: Tensor) -> dict[str, Tensor]:
    """What a PSNR may leave out, by the keys of `AREAS`, as [1,1,H,W] of 0 and 1; each holds the one before.

    The method edits whole latent cells of 8 x 8 pixels, every cell that the mask [1,1,H,W] touches, so
    pixels beside the mask change with it. And the decoder draws a pixel from its neighbourhood: when one
    cell of the shipped autoencoder is nudged, 64 % of the squared change falls outside the cell, 18 %
    beyond one further cell and 1 % beyond two. Both, not the sampler, limit the PSNR right at the mask.
    """
    cells = (soft_mask(mask, FLUX.pixels) > 0).float()
    ring = torch.nn.functional.max_pool2d(cells, 3, stride=1, padding=1)
    return {"mask": (mask > 0).float(), "cells": _pixels(cells), "ring": _pixels(ring)}


def psnr_outside(a: Tensor, b: Tensor, mask: Tensor) -> float | None:
    """PSNR where ``mask`` is 0, at most 100 dB (float32 rounds there); None where that is nowhere."""
    return min(masked_psnr(a, b, mask), 100.0) if bool((mask == 0).any()) else None


def _share_outside(mask: Tensor) -> float:
    return float((mask == 0).double().mean())


def _rivals(edited: Tensor, closeness: float, region: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The edit with noise, another pattern for every person, and with blur, of the protection's SSIM."""
    target = min(closeness, 1 - 1e-6)  # 1 where the protection changed nothing
    noise = at_equal_ssim(edited, target, partial(noisy, seed=seed), region=region)
    return noise, at_equal_ssim(edited, target, blurred, region=region, strongest=24.0)


def _cosines(models: Models, job: Job, first: Tensor, second: Tensor) -> tuple[Recognition, ...]:
    """Every recogniser's cosine to the original of two pictures, as ``edited`` and ``protected``."""
    points = job.face.landmarks
    shots = [Shot(picture, points) for picture in (job.picture, first, second)]
    return measure(models.ensemble, *shots, transforms=())


def _pixels(cells: Tensor) -> Tensor:
    side = FLUX.pixels
    return cells.repeat_interleave(side, 2).repeat_interleave(side, 3)
