"""`fluxguard shield training`."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..defences.budget import with_budget
from ..defences.training import TRAINING_SHIELDS, TrainingShield, shield_training
from ..errors import FluxGuardError
from . import shield_cost
from .names import shown
from .plan import tell_troubles
from .progress import stopping
from .shield_job import (
    Job,
    bar,
    ended,
    faces_in,
    measured,
    plan_job,
    read_photo,
    tell_done,
    tell_job,
    told_error,
    write_result,
)
from .shield_models import as_grey, check_photo, is_drawn, load_surrogate

PROMPT = "a photo of sks person"
MINI_PROMPT = "a person"


def chosen(args: argparse.Namespace) -> TrainingShield:
    """The preset with the numbers that were given instead of its own."""
    shield = TRAINING_SHIELDS[args.preset]
    if args.budget is not None:
        shield = with_budget(shield, args.budget / 255)
    if args.epochs is not None:
        if args.epochs < 1:
            raise FluxGuardError(f"Expected ‹give epochs› from 1 up, got {args.epochs}.")
        shield = replace(shield, epochs=args.epochs)
    return shield


def run(args: argparse.Namespace) -> int:
    """Handle the command: all photos are of one person and shielded together; returns the exit code."""
    shield, drawn = chosen(args), is_drawn(args)
    prompt = args.prompt or (MINI_PROMPT if drawn else PROMPT)
    job = plan_job(args, shield, together=True)
    if job.to_do:  # they were made together, and are made together
        job = replace(job, items=tuple(replace(item, done=False) for item in job.items))
    if args.dry_run:
        tell_job(job, shield_cost.told_training(args, shield, job))
        return 0
    tell_done(args, job)
    if not job.to_do:
        return job.exit_code
    job = _readable(args, job)
    photos = [read_photo(item.photo, args) for item in job.to_do]
    for item, (picture, _) in zip(job.to_do, photos, strict=True):
        check_photo(args, picture.rgb, shown(item.photo.name))
    model = load_surrogate(args, prompt)
    total = shield.steps * len(photos)
    with stopping() as stop, bar(total, "training", stop, quiet=args.quiet) as told:
        results = shield_training(
            [picture.rgb for picture, _ in photos],
            model,
            shield,
            masks=[mask for _, mask in photos],
            seed=args.seed,
            on_step=told,
        )
    for item, (picture, _), done in zip(job.to_do, photos, results, strict=True):
        kept = as_grey(done.picture) if picture.grey else done.picture
        done = replace(done, picture=kept.cpu())
        found = faces_in(picture.rgb, item.photo, args, drawn=drawn)
        numbers = {
            "shield": "training",
            "preset": args.preset,
            "budget_of_255": round(255 * shield.budget, 2),
            "prompt": prompt,
            "photos_together": len(photos),
            "asked": "the miniature" if drawn else "the model given",
        }
        write_result(item, picture, done, measured(picture.rgb, done.picture, found), numbers)
    return 130 if any(done.interrupted for done in results) else ended(job)


def _readable(args: argparse.Namespace, job: Job) -> Job:
    """The job, photos that turn out damaged only when they are decoded being told and left out.

    Raises:
        FluxGuardError: no photo can be read.
    """
    items, errors = [], []
    for item in job.items:
        try:
            if not item.trouble:
                read_photo(item.photo, args)
            items.append(item)
        except FluxGuardError as error:
            errors.append(error)
            items.append(replace(item, trouble=told_error(error)))
            tell_troubles(args, items[-1:])
    job = replace(job, items=tuple(items))
    if errors and not job.to_do:
        raise errors[0]
    return job
