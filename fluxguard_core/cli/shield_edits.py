"""`fluxguard shield edits`."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..defences.budget import with_budget
from ..defences.edits import EDIT_SHIELDS, EditShield, shield_edits
from ..errors import FluxGuardError
from . import shield_cost
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
from .shield_models import (
    as_grey,
    check_one_model,
    check_photo,
    is_drawn,
    load_surrogate,
    seeing_grey,
)

SMOOTH = 0.5  # share of the budget that smooth skin gets, unless it is spent evenly


def chosen(args: argparse.Namespace) -> EditShield:
    """The preset with the numbers that were given instead of its own."""
    shield = EDIT_SHIELDS[args.preset]
    if args.budget is not None:
        shield = with_budget(shield, args.budget / 255)
    if args.steps is not None:
        if args.steps < 1:
            raise FluxGuardError(f"Expected ‹give steps› from 1 up, got {args.steps}.")
        shield = replace(shield, steps=args.steps)
    return replace(shield, smooth=1.0 if args.even else SMOOTH)


def run(args: argparse.Namespace) -> int:
    """Handle the command; returns the exit code."""
    shield = chosen(args)
    check_one_model(args, needs_model=shield.needs_model)
    job = plan_job(args, shield)
    if args.dry_run:
        tell_job(job, shield_cost.told_edits(args, shield, job))
        return 0
    tell_done(args, job)
    if not job.to_do:
        return job.exit_code
    model = load_surrogate(args, args.prompt)
    drawn = is_drawn(args)
    with stopping() as stop:

        def work(item: Item) -> bool:
            picture, mask = read_photo(item.photo, args)
            check_photo(args, picture.rgb, shown(item.photo.name))
            asked = seeing_grey(model) if picture.grey else model
            total = len(shield.tiles(picture.size)) * shield.steps
            with bar(total, shown(item.photo.name), stop, quiet=args.quiet) as told:
                done = shield_edits(
                    picture.rgb, asked, shield, mask=mask, seed=args.seed, on_step=told
                )
            kept = as_grey(done.picture) if picture.grey else done.picture
            done = replace(done, picture=kept.cpu())
            change = measured(
                picture.rgb, done.picture, faces_in(picture.rgb, item.photo, args, drawn=drawn)
            )
            numbers = {
                "shield": "edits",
                "preset": shield.name,
                "budget_of_255": round(255 * shield.budget, 2),
                "prompt": args.prompt,
                "asked": "the miniature" if drawn else "the model given",
            }
            write_result(item, picture, done, change, numbers)
            return done.interrupted

        return each(job, work)
