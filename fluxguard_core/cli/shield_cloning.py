"""`fluxguard shield cloning`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..defences.budget import with_budget
from ..defences.cloning import CloneShield, shield_cloning
from ..errors import FluxGuardError
from ..faces.alignment import align
from ..faces.face import Face, choose
from ..recognition.ensemble import Ensemble
from . import shield_cost, sources
from .finding import parse_face
from .names import shown
from .plan import Item
from .progress import stopping
from .shield_job import (
    bar,
    each,
    faces_in,
    measured,
    plan_job,
    read_photo,
    tell_done,
    tell_job,
    write_result,
)
from .shield_models import as_grey
from .world_gate import check_world


def chosen(args: argparse.Namespace) -> CloneShield:
    """The shield with the numbers that were given instead of its own."""
    shield = replace(CloneShield(), limit=args.limit, spreads=args.spreads)
    if args.budget is not None:
        shield = with_budget(shield, args.budget / 255)
    if args.steps is not None:
        if args.steps < 1:
            raise FluxGuardError(f"Expected ‹give steps› from 1 up, got {args.steps}.")
        shield = replace(shield, steps=args.steps)
    return shield


def run(args: argparse.Namespace) -> int:
    """Handle the command; returns the exit code."""
    shield, which = chosen(args), parse_face(args.face)
    job = plan_job(args, shield)
    if args.dry_run:
        tell_job(job, shield_cost.told_cloning(args, shield, job))
        return 0
    tell_done(args, job)
    if not job.to_do:
        return job.exit_code
    ensemble, drawn = _ensemble(args), not args.recogniser
    with stopping() as stop:

        def work(item: Item) -> bool:
            picture, _ = read_photo(item.photo, args)
            check_world(picture.rgb, shown(item.photo.name), ensemble.members)
            found = choose(faces_in(picture.rgb, item.photo, args, drawn=drawn), which)
            faces = _points(found)
            with bar(shield.steps, shown(item.photo.name), stop, quiet=args.quiet) as told:
                done = shield_cloning(
                    picture.rgb, faces, ensemble, shield, seed=args.seed, on_step=told
                )
            if picture.grey:
                done = replace(done, picture=as_grey(done.picture))
            change = measured(picture.rgb, done.picture, found)
            numbers = {
                "shield": "cloning",
                "budget_of_255": round(255 * shield.budget, 2),
                "limit": shield.limit,
                "faces": len(faces),
                "recognisers": recognised(ensemble, picture.rgb, done.picture, faces),
                **_sum(item.photo, change.used),
            }
            write_result(item, picture, done, change, numbers)
            for row in numbers["recognisers"]:
                role = "attacked" if row["attacked"] else "held out"
                print(f"  {row['name']} ({role}): similarity 1.00 to {row['similarity']:.2f}")
            return done.interrupted

        return each(job, work)


def _ensemble(args: argparse.Namespace) -> Ensemble:
    if args.recogniser:
        device = args.device or sources.best_device()
        return Ensemble(*sources.recognisers(args.recogniser, args.hold_out, device))
    from ..mini.faces import load_ensemble
    from ..mini.models import use_one_thread

    use_one_thread()
    return load_ensemble(held_out=args.hold_out or ["mobileface"])


def _points(faces: list[Face]) -> Tensor:
    """Five points [N, 5, 2]."""
    points = [face.landmarks for face in faces if face.landmarks is not None]
    if len(points) < len(faces):
        raise FluxGuardError("A face came without five points.", "Choose the detector yunet.")
    return torch.stack(points).float()


@torch.no_grad()
def recognised(
    ensemble: Ensemble, before: Tensor, after: Tensor, faces: Tensor
) -> list[dict[str, Any]]:
    """What each recogniser still sees of the photo's own faces: the highest similarity over them."""
    rows = []
    for encoder in ensemble.members:
        one, other = (
            encoder(align(x.expand(len(faces), -1, -1, -1), faces, encoder.crop))
            for x in (before, after)
        )
        rows.append(
            {
                "name": encoder.name,
                "attacked": encoder in ensemble.attacked,
                "similarity": float((one * other).sum(-1).max()),
            }
        )
    return rows


def _sum(photo: Path, used: float) -> dict[str, Any]:
    """What this shield and an earlier one on the same photo used together at most."""
    try:
        earlier = json.loads(photo.with_suffix(".json").read_text(encoding="utf-8"))
        before = float(earlier["change"]["used_of_255"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    together = f"{earlier.get('shield')} {before:.0f} + cloning {used:.0f}"
    print(f"  with the shield before it, at most {before + used:.0f} of 255 ({together})")
    return {"together_of_255": round(before + used, 2)}
