"""`fluxguard protect`: photos in, edited and protected photos and their reports out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..errors import FluxGuardError, Interrupted
from ..faces.face import Face
from ..faces.points_file import read_points
from ..mini.world_gate import check_world
from ..pictures.files import read_mask, read_picture
from ..pipelines.models import Models
from ..pipelines.photo import Measuring, Protected, Wishes, protect_photo
from ..pipelines.unedited import Kept
from ..protect.presets import PHOTO_PRESETS, PRESETS, Preset
from ..recognition.identity import EXPLANATIONS
from . import protect_ray, protect_unedited, sources
from .command_line import TERMINAL
from .finding import add_face
from .names import shown
from .plan import Item, Plan, called, make_plan, tell_passed_over, tell_plan, tell_troubles
from .progress import progress_bars, stopping
from .results import finish, keep_edit, sweep
from .world_gate import WAYS


def register(subparsers: Any) -> None:
    """Add the `protect` command to the `fluxguard` parser."""
    parser = subparsers.add_parser(
        "protect",
        help="edit a portrait with words and protect the person in it",
        epilog="Identities. "
        + " ".join(f"{kind}: {text}" for kind, text in EXPLANATIONS.items())
        + " Exit code: 0 where every photo has its result (how far that protects, its report says), 1 where some have none, "
        "2 where nothing could start.",
    )
    parser.add_argument("photo", metavar="PHOTO", help="a picture, or a folder of them")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT.png", help="or a folder, for a folder"
    )
    parser.add_argument("--prompt", help="what the edited picture shows")
    parser.add_argument(
        "--source-prompt", help="what the photo shows (the miniature sees for itself)"
    )
    parser.add_argument(
        "--mask", metavar="PNG", help="white may change; default: from the prompt's words"
    )
    parser.add_argument(
        "--identity",
        default="untargeted",
        metavar="KIND",
        help="untargeted (default), synthetic:SEED, or photo:FILE",
    )
    _add_numbers(parser)
    add_face(parser)
    parser.add_argument(
        "--second", metavar="FILE", help="another photo of the person, for the report"
    )
    parser.add_argument(
        "--html",
        action="store_true",
        help="write the report as a page, too: it shows the original, so it is for you alone",
    )
    _add_batch(parser)
    protect_ray.add_ray(parser)
    sources.add_arguments(parser)
    parser.set_defaults(run=run)


def _add_numbers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset",
        choices=list(dict.fromkeys([*PRESETS, *PHOTO_PRESETS])),
        default="default",
        help="gentle and strong are for photos without an edit, paper and fast for edits",
    )
    numbers = (
        ("--intervals", "--steps", "of the flow (default: the preset's)"),
        ("--attack-last", "--attacked", "protect after each of the last N intervals"),
        ("--optimiser-steps", "--iterates", "steps of the optimiser after each of them"),
    )
    for name, earlier, told in numbers:
        parser.add_argument(name, type=int, metavar="N", help=told)
        # Scripts call them so; said no longer, for it is not what the rest of FluxGuard says.
        parser.add_argument(
            earlier,
            type=int,
            dest=name[2:].replace("-", "_"),
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )
    parser.add_argument(
        "--likeness",
        choices=list(PHOTO_PRESETS),
        help="hold the protection to this budget of what friends may see (docs/protection.md); without words it "
        "takes the place of the preset's own, an edit's protection is free without it",
    )
    parser.add_argument(
        "--far", type=float, default=1e-2, help="false accept rate that counts (default 0.01)"
    )
    parser.add_argument("--size", type=int, help="working size in pixels, a multiple of 16")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")


def _add_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recursive", action="store_true", help="take the photos of sub-folders, too"
    )
    parser.add_argument("--again", action="store_true", help="redo what is done already")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be done and what it costs, and stop",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Handle the command; returns the exit code."""
    unedited = sources.is_unedited(args)
    if unedited:
        protect_unedited.settle(args)
    plan = make_plan(args)
    if args.dry_run:
        sources.check_recognisers(args)
        tell_plan(args, plan)
        return 0
    tell_passed_over(plan)
    for item in plan.items:
        if item.done:
            print(f"{shown(item.targets.protected)}: done already (redo it with --again)")
    failed = tell_troubles(args, plan.items)
    if not plan.to_do:
        return 1 if failed or plan.left_alone else 0
    if args.ray is not None:
        lost, matched = protect_ray.protect_with_ray(args, plan)
        failed += lost
        print(_summary(plan, failed, matched), file=sys.stderr if failed else sys.stdout)
        return 1 if failed or plan.left_alone else 0
    work = worker_of(args, plan)
    matched = 0
    with stopping() as stop:
        for item in plan.to_do:
            try:
                done = work(item, called(args, item), stop)
                if done.interrupted:
                    return 130
                matched += every_recogniser_matches(done)
            except Interrupted:
                raise
            except Exception as error:  # whatever it is, the other pictures have their turn
                if len(plan.items) == 1 and isinstance(error, FluxGuardError):
                    raise
                failed += 1
                print(f"{called(args, item)}: {told_of(error)}", file=sys.stderr)
    if len(plan.items) > 1 or failed:
        print(_summary(plan, failed, matched), file=sys.stderr if failed else sys.stdout)
    return 1 if failed or plan.left_alone else 0


Work = Callable[[Item, str, Callable[[], bool]], Protected | Kept]
"""Protects one photo: the item, its name for messages, and what says to stop."""


def worker_of(args: argparse.Namespace, plan: Plan) -> Work:
    """What protects the photos of a plan, its models loaded: with an edit, or as they are."""
    if sources.is_unedited(args):
        return protect_unedited.worker(args, plan)
    return _editor(args, plan)


def _editor(args: argparse.Namespace, plan: Plan) -> Work:
    models = sources.load_models(args)
    points = None if args.points is None else read_points(args.points)

    def work(item: Item, name: str, stop: Callable[[], bool]) -> Protected:
        here = models if points is None else replace(models, find_faces=points.on(item.photo))
        return _protect(args, here, plan, item, name, stop)

    return work


def _protect(
    args: argparse.Namespace,
    models: Models,
    plan: Plan,
    item: Item,
    name: str,
    stop: Callable[[], bool],
) -> Protected:
    """Protect one photo; its pictures are on disk before anything is measured."""
    assert isinstance(plan.preset, Preset)
    picture = read_picture(item.photo)
    wishes = Wishes(
        prompt=args.prompt,
        source_prompt=args.source_prompt,
        mask=None if args.mask is None else read_mask(args.mask, picture.size),
        identity=plan.identity,
        preset=plan.preset,
        face=plan.face,
        size=args.size,
        grey=picture.grey,
        seed=args.seed,
        budget=None if args.likeness is None else PHOTO_PRESETS[args.likeness].budget,
    )

    def admit(photo: Tensor, faces: Sequence[Face]) -> None:
        if check_world(photo, name, models.knowers, WAYS, faces) == "drawn":
            print(f"{name}: a drawn portrait; the built-in miniature works on it.")

    known: dict[str, Any] = {}
    sweep(item.targets)
    with progress_bars(stop, quiet=args.quiet) as observer:
        result = protect_photo(
            models,
            picture.rgb,
            wishes,
            measuring=Measuring(plan.second, _settings(args), picture.notes),
            observer=observer,
            admit=admit,
            ready=lambda made: known.update(keep_edit(item.targets, picture, item.made, made)),
        )
    finish(item.targets, known, result, html=args.html)
    if result.report is None:
        print(f"{shown(item.targets.protected)}: protected, but not measured: {result.unmeasured}")
    else:
        print(f"{shown(item.targets.protected)}: {result.report.verdict.headline}")
    return result


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the report says of the run besides the preset."""
    return {"seed": args.seed, **({"likeness": args.likeness} if args.likeness else {})}


def every_recogniser_matches(done: Protected | Kept) -> bool:
    """Whether a picture was worked on in vain, as far as it was measured."""
    return done.report is not None and done.report.verdict.level == "none"


def told_of(error: Exception) -> str:
    if isinstance(error, FluxGuardError):
        return error.told(TERMINAL)
    if isinstance(error, MemoryError) or "alloc" in str(error):
        return "there is not enough memory. Choose a smaller --size."
    return f"it could not be protected ({type(error).__name__}: {error})."


def _summary(plan: Plan, failed: int, matched: int = 0) -> str:
    """How it went, in a line.

    Args:
        matched: pictures that were worked on and that every recogniser still matches.
    """
    done = sum(item.done for item in plan.items)
    parts = [f"{len(plan.items) - done - failed - matched} protected"]
    parts += [f"{matched} worked on, but every recogniser still matches"] if matched else []
    parts += [f"{done} done already"] if done else []
    parts += [f"{len(plan.passed_over)} passed over"] if plan.passed_over else []
    parts += [f"{failed} of {len(plan.items)} pictures could not be protected"] if failed else []
    return ", ".join(parts) + "."
