"""The whole method, measured on the miniature: edit, background, protection, against noise and blur."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.baselines import at_equal_ssim, blurred, noisy
from ..evaluate.quality import masked_psnr, ssim
from ..evaluate.similarity import Shot, measure
from ..evaluate.statistics import bootstrap_mean, paired, wilson
from ..portrait import (
    Job,
    Models,
    Outcome,
    invert_portrait,
    mask_from_words,
    protect_portrait,
    seeded,
)
from ..protect.presets import Preset
from ..recognition.faces import choose
from ..recognition.identity import untargeted
from ..region import soft_mask
from .captions import caption, parse_caption
from .faces import classify_attributes
from .models import complete
from .portrait_spec import PortraitSpec, with_attributes
from .quality import held_out_specs
from .renderer import render

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


@dataclass(frozen=True)
class Row:
    """One portrait and edit; cosines to the original by recogniser, PSNR in dB.

    ``*_near`` leaves out one latent cell around the mask, which the decoder's receptive field reaches.
    """

    portrait: int
    edit: str
    hit: bool
    edit_outside: float
    edit_outside_near: float
    protected_outside: float
    ssim: float
    thresholds: dict[str, float]
    attacked: dict[str, bool]
    edited: dict[str, float]
    protected: dict[str, float]
    noise: dict[str, float]
    blur: dict[str, float]


def measure_method(
    models: Models, preset: Preset, portraits: int, log: Path | None = None
) -> list[Row]:
    """Rows of ``portraits`` held-out people and every edit; a log makes it resumable."""
    rows = _read(log)
    done = {(row.portrait, row.edit) for row in rows}
    for index, spec in enumerate(held_out_specs(portraits)):
        for name in EDITS:
            if (index, name) in done:
                continue
            row = _measured(models, preset, index, spec, name)
            rows.append(row)
            if log is not None:
                with log.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
    return rows


def _measured(models: Models, preset: Preset, index: int, spec: PortraitSpec, name: str) -> Row:
    words, before = EDITS[name]
    portrait = render(with_attributes(spec, **before))
    picture, source_prompt = portrait.image[None], caption(portrait.spec.attributes)
    prompt = complete(source_prompt, words)
    job = Job(
        picture=picture,
        source_prompt=source_prompt,
        prompt=prompt,
        mask=mask_from_words(models, picture, source_prompt, prompt),
        face=choose(models.find_faces(picture[0]), "largest")[0],
        identity=untargeted(),
        preset=seeded(preset, index),
    )
    trajectory = invert_portrait(models, picture, source_prompt, preset)
    outcome = protect_portrait(models, job, trajectory=trajectory)
    return _row(models, job, outcome, index, name, words)


def _row(models: Models, job: Job, outcome: Outcome, index: int, name: str, words: str) -> Row:
    edited, protected, plain = outcome.edited, outcome.protected, outcome.reconstruction
    seen = classify_attributes(edited)[0]
    cells = (soft_mask(job.mask, 8) > 0).float()
    touched = _pixels(cells)
    near = _pixels(torch.nn.functional.max_pool2d(cells, 3, stride=1, padding=1))
    both = torch.maximum(near, outcome.region)
    closeness = ssim(protected, edited)
    points = job.face.landmarks

    def cosines(picture: Tensor) -> dict[str, float]:
        shots = (Shot(job.picture, points), Shot(edited, points), Shot(picture, points))
        return {r.name: r.protected for r in measure(models.ensemble, *shots, transforms=())}

    found = measure(
        models.ensemble,
        Shot(job.picture, points),
        Shot(edited, points),
        Shot(protected, points),
        transforms=(),
    )
    return Row(
        portrait=index,
        edit=name,
        hit=all(seen[key] == value for key, value in parse_caption(words).items()),
        edit_outside=masked_psnr(edited, plain, touched),
        edit_outside_near=masked_psnr(edited, plain, near),
        protected_outside=masked_psnr(protected, plain, both)
        if (both == 0).any()
        else float("inf"),
        ssim=closeness,
        thresholds={r.name: float(r.threshold or 0) for r in found},
        attacked={r.name: r.attacked for r in found},
        edited={r.name: r.edited for r in found},
        protected={r.name: r.protected for r in found},
        noise=cosines(at_equal_ssim(edited, closeness, noisy, region=outcome.region)),
        blur=cosines(
            at_equal_ssim(edited, closeness, blurred, region=outcome.region, strongest=24.0)
        ),
    )


def _pixels(cells: Tensor) -> Tensor:
    return cells.repeat_interleave(8, 2).repeat_interleave(8, 3)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Shares and means with 95 % intervals.

    Protection is judged on the edits that every recogniser matches to the original beforehand.
    """
    matched = [
        row for row in rows if all(row.edited[n] > row.thresholds[n] for n in row.thresholds)
    ]
    if len(matched) < 2:
        raise FluxGuardError(
            f"Only {len(matched)} of {len(rows)} edits are matched beforehand; measure more portraits."
        )
    return {
        "edits": len(rows),
        "hit_rate": _share(row.hit for row in rows),
        "hit_rate_by_edit": {
            name: _share(row.hit for row in rows if row.edit == name)
            for name in EDITS
            if any(row.edit == name for row in rows)
        },
        "edit_psnr_outside": _mean(row.edit_outside for row in rows),
        "edit_psnr_outside_near": _mean(row.edit_outside_near for row in rows),
        "protected_psnr_outside": _mean(row.protected_outside for row in rows),
        "ssim": _mean(row.ssim for row in rows),
        "matched_before": _share(row in matched for row in rows),
        "recognisers": {name: _recogniser(name, matched) for name in matched[0].thresholds},
    }


def _recogniser(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    def below(values: Callable[[Row], dict[str, float]]) -> list[float]:
        return _share(values(row)[name] <= row.thresholds[name] for row in rows)

    protected = [row.protected[name] for row in rows]
    versus = {
        rival: paired(protected, [getattr(row, rival)[name] for row in rows])
        for rival in ("edited", "noise", "blur")
    }
    return {
        "attacked": rows[0].attacked[name],
        "threshold": rows[0].thresholds[name],
        "edited": _mean(row.edited[name] for row in rows),
        "protected": _mean(protected),
        "below_after_protection": below(lambda row: row.protected),
        "below_after_noise": below(lambda row: row.noise),
        "below_after_blur": below(lambda row: row.blur),
        "cosine_against": {
            rival: [pair.difference.value, pair.difference.low, pair.difference.high]
            for rival, pair in versus.items()
        },
    }


def _share(hits: Iterable[bool]) -> list[float]:
    values = list(hits)
    found = wilson(sum(values), len(values))
    return [found.value, found.low, found.high]


def _mean(values: Iterable[float]) -> list[float]:
    finite = [min(value, 100.0) for value in values]  # beyond 100 dB lies float32's rounding
    found = bootstrap_mean(finite)
    return [found.value, found.low, found.high]


def _read(log: Path | None) -> list[Row]:
    if log is None or not log.is_file():
        return []
    return [Row(**json.loads(line)) for line in log.read_text().splitlines() if line]
