"""`fluxguard protect PHOTO --recogniser ...`: without words and without FLUX, a photo is protected as it is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.likeness import heat_picture, likeness
from ..faces.alignment import align
from ..faces.face import choose
from ..pictures.files import Picture, png_bytes, read_mask, read_picture, write_atomic, write_png
from ..protect.engine import Step
from ..protect.photo import protect_pixels
from ..protect.presets import photo_preset_named
from ..recognition.ensemble import Ensemble
from . import sources
from .finding import parse_face
from .names import Targets, shown, single_target
from .progress import stopping

HEAT = "-where.png"


def is_unedited(args: argparse.Namespace) -> bool:
    """True where recognisers are given, and neither words nor a FLUX."""
    return bool(args.recogniser) and args.prompt is None and sources.is_miniature(args)


def run(args: argparse.Namespace) -> int:
    """Protect one photo; returns the exit code."""
    source = Path(args.photo)
    if source.is_dir():
        raise FluxGuardError(
            "Without words one photo is protected at a time, and this is a folder.",
            "Name a photo.",
        )
    preset = photo_preset_named(args.preset)
    picture = read_picture(source)
    targets = single_target(Path(args.output), [source, *sources.named_files(args)])
    mask = None if args.mask is None else read_mask(args.mask, picture.size)
    attacked, held_out = sources.recognisers(args.recogniser, args.hold_out)
    ensemble = Ensemble(attacked, held_out)
    face = choose(sources.detector_of(args)(picture.rgb[0]), parse_face(args.face))
    if len(face) != 1 or face[0].landmarks is None:
        raise FluxGuardError(
            "Without words one face is protected, and its five points must be known.",
            "Choose a face with ‹give face› and a detector that finds points, such as yunet.",
        )
    points = face[0].landmarks
    with stopping() as stop:
        done = protect_pixels(
            picture.rgb,
            ensemble,
            points,
            preset,
            mask=mask,
            seed=args.seed,
            on_step=_told(preset.steps, stop, quiet=args.quiet),
        )
    _written(targets, picture, done.picture, points, ensemble, preset.name)
    return 130 if done.interrupted else 0


def _told(steps: int, stop: Callable[[], bool], *, quiet: bool) -> Callable[[Step, Tensor], None]:
    from ..errors import Interrupted

    def told(step: Step, picture: Tensor) -> None:
        if not quiet:
            print(f"\rstep {step.step + 1} of {steps}", end="", flush=True)
        if stop():
            raise Interrupted("Stopped.")

    return told


def _written(
    targets: Targets,
    picture: Picture,
    protected: Tensor,
    points: Tensor,
    ensemble: Ensemble,
    preset: str,
) -> None:
    """Write the photo, the numbers, and where it was changed; say them in words."""
    write_atomic(targets.protected, png_bytes(replace(picture, rgb=protected)))
    looks = likeness(picture.rgb, protected, points)
    recognised = _recognised(ensemble, picture.rgb, protected, points)
    numbers = {
        "preset": preset,
        "likeness": {**asdict(looks), "verdict": looks.verdict},
        "recognisers": recognised,
        "notes": "similarities to the unprotected photo itself; another photo of the person is the harder test",
    }
    write_atomic(targets.json, json.dumps(numbers, indent=2) + "\n")
    write_png(
        targets.protected.with_name(targets.protected.stem + HEAT),
        heat_picture(picture.rgb, protected),
    )
    print(f"\r{shown(targets.protected)}: {looks.told()}")
    for row in recognised:
        role = "attacked" if row["attacked"] else "held out"
        print(
            f"  {row['name']} ({role}): similarity 1.00 to {row['similarity']:.2f}{_matched(row)}"
        )
    if preset == "strong":
        print(
            "  strong protects whatever it looks like: look at the picture before you publish it."
        )


def _matched(row: dict[str, Any]) -> str:
    """Whether a recogniser still takes both pictures for one person, as far as its threshold is known."""
    if row["threshold"] is None:
        return ", threshold not known"
    still = row["similarity"] > row["threshold"]
    return f", {'still matches' if still else 'no longer matches'} (above {row['threshold']:.2f})"


@torch.no_grad()
def _recognised(
    ensemble: Ensemble, photo: Tensor, protected: Tensor, points: Tensor
) -> list[dict[str, Any]]:
    rows = []
    for encoder in ensemble.members:
        before, after = (
            encoder(align(x, points.reshape(1, 5, 2).float(), encoder.crop))[0]
            for x in (photo, protected)
        )
        rows.append(
            {
                "name": encoder.name,
                "attacked": encoder in ensemble.attacked,
                "similarity": float(before @ after),
                "threshold": encoder.threshold() if encoder.thresholds else None,
            }
        )
    return rows
