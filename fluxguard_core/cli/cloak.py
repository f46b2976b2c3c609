"""`fluxguard cloak train|apply`: a generator that cloaks a portrait in one pass, against deepfakes or recognition."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..defences.attgan_data import cut_once
from ..defences.attgan_files import load_attgan
from ..defences.attribute_edit import CELEBA_FRAME, AttributeEditor, cut_to
from ..defences.cloak import Cloak, load_cloak, save_cloak
from ..defences.cloak_faces import (
    attribute_fake,
    difference_seen,
    drawn_from,
    eyes_in,
    recognise_in_frame,
    working_side,
)
from ..defences.cloak_targets import Asked, Target
from ..defences.cloak_training import CloakPlan, CloakRun, train_cloak
from ..errors import FluxGuardError
from ..evaluate.quality import quality
from ..faces.alignment import align
from ..faces.face import FaceFinder, choose
from ..mini.world_check import world_of
from ..pictures.files import read_mask, read_picture
from ..pictures.folder import photos_in
from ..protect.photo import protect_pixels
from ..protect.presets import photo_preset_named
from ..recognition.ensemble import Ensemble
from ..worlds import World
from .finding import add_detector, add_face, finder_for, parse_face
from .names import check_writable, shown, single_target
from .plan import Item, item_of
from .progress import stopping
from .results import settings_digest, store
from .sources import add_recognisers, named_files, recognisers
from .world_gate import check_world

SIDE = 256


def register(subparsers: Any) -> None:
    """Add the `cloak` command to the `fluxguard` parser."""
    parser = subparsers.add_parser(
        "cloak", help="cloak portraits in one pass, with a generator that you train once"
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    _register_train(kinds)
    _register_apply(kinds)


def _register_train(kinds: Any) -> None:
    parser = kinds.add_parser(
        "train",
        help="train a generator, resumably",
        description="Ctrl-C stops; the same command goes on.",
    )
    parser.add_argument("--faces", type=Path, required=True, metavar="DIR", help="portraits")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument(
        "--attgan",
        action="append",
        default=[],
        metavar="FILE",
        help="a deepfake model to break; may be repeated",
    )
    parser.add_argument(
        "--ask-only",
        action="store_true",
        help="train against --attgan by queries, without its gradients",
    )
    parser.add_argument(
        "--limit", type=float, default=6.0, help="largest change, of 255 (default: 6)"
    )
    parser.add_argument(
        "--mode",
        choices=("hard", "soft"),
        default="hard",
        help="soft: the published hinge in training",
    )
    parser.add_argument(
        "--side", type=int, default=SIDE, help="of the faces in training (default: 256)"
    )
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, help="train so long instead")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cuda, mps or cpu (default: what there is)")
    add_recognisers(parser)
    add_detector(parser, "yunet; the miniature's for drawn portraits")
    parser.set_defaults(run=run_train)


def _register_apply(kinds: Any) -> None:
    parser = kinds.add_parser("apply", help="cloak a picture with a trained generator")
    parser.add_argument("photo", type=Path, metavar="PHOTO")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    parser.add_argument("--cloak", type=Path, required=True, metavar="FILE")
    parser.add_argument("--mask", type=Path, metavar="PNG", help="white may change (default: all)")
    parser.add_argument(
        "--refine",
        type=int,
        default=0,
        metavar="N",
        help="go on from the cloak with N steps of the optimiser, against the attacked recognisers",
    )
    add_recognisers(parser)
    add_detector(parser, "yunet; the miniature's for drawn portraits")
    add_face(parser)
    parser.set_defaults(run=run_apply)


def run_train(args: argparse.Namespace) -> int:
    """Handler of `fluxguard cloak train`."""
    if args.output.suffix != ".safetensors":
        raise FluxGuardError(
            f"Expected a file ending in .safetensors, got '{shown(args.output.name)}'."
        )
    files = photos_in(args.faces, recursive=True).taken
    world = world_of(read_picture(files[0]).rgb)
    targets = _targets(args, world)
    ensemble = _ensemble(args, world)
    finders = finder_for(args.points, _detector(args, world), world)
    store = args.output.with_suffix(".faces")
    face = partial(_face, finders=finders, side=args.side)
    faces, there = cut_once(files, args.side, face, store, print)
    kept = torch.from_numpy(np.ascontiguousarray(faces[np.flatnonzero(there[:] == 1)]))
    if not len(kept):
        raise FluxGuardError(f"No face was found in any of the {len(files)} pictures.")
    print(f"{len(kept)} faces ({world}); left out for want of a face: {len(files) - len(kept)}")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    plan = CloakPlan(
        args.steps,
        limit=args.limit / 255,
        mode=args.mode,
        rate=args.rate,
        minutes=args.minutes,
        seed=args.seed,
        device=device,
    )
    run = CloakRun.fresh(plan)
    checkpoint = args.output.with_suffix(".checkpoint.safetensors")
    with stopping() as stop:
        train_cloak(
            run,
            drawn_from(kept, args.batch),
            targets,
            plan,
            checkpoint,
            print,
            recognise=None if ensemble is None else recognise_in_frame(ensemble),
            look=difference_seen,
            stopped=stop,
        )
        stopped = stop()
    against = (
        *(t.name for t in targets),
        *(e.name for e in (ensemble.attacked if ensemble else ())),
    )
    cloak = Cloak(run.generator.eval(), plan.limit, world, against, eyes_in(args.side))
    notes = {"side": str(args.side), "steps": str(run.step), "queries": str(run.queries)}
    save_cloak(args.output, cloak, notes)
    asked = f", {run.queries} pictures asked of the models" if run.queries else ""
    print(f"Written {shown(args.output)} after {run.step} steps{asked}.")
    return 130 if stopped else 0


def run_apply(args: argparse.Namespace) -> int:
    """Handler of `fluxguard cloak apply`."""
    item = _place_of(args)
    cloak = load_cloak(args.cloak)
    picture = read_picture(args.photo)
    ensemble = _ensemble(args, cloak.world)
    if world_of(picture.rgb) != cloak.world:
        check_world(
            picture.rgb, shown(args.photo.name), ensemble.members if ensemble else (), cloak.world
        )
    finder = finder_for(args.points, _detector(args, cloak.world), cloak.world)(args.photo)
    faces = [] if finder is None else choose(finder(picture.rgb[0]), parse_face(args.face))
    points = faces[0].landmarks if faces else None
    if points is None:
        raise FluxGuardError(
            "Where the face is decides at which size the cloak is made, and its five points are not known.",
            "Choose a detector that finds points, such as yunet.",
        )
    mask = None if args.mask is None else read_mask(args.mask, picture.size)
    begun = time.perf_counter()
    cloaked = cloak(picture.rgb, mask, working=working_side(picture.size, points, cloak.eyes))
    if args.refine > 0:
        cloaked = _refined(picture.rgb, cloaked, ensemble, points, mask, args.refine)
    spent = time.perf_counter() - begun
    made = quality(cloaked, picture.rgb)
    largest = float((cloaked - picture.rgb).abs().max()) * 255
    told = _recognised(ensemble, picture.rgb, cloaked, points)
    numbers = {
        "cloak": args.cloak.name,
        "refined": args.refine,
        "psnr": made.psnr if math.isfinite(made.psnr) else None,
        "largest_of_255": largest,
        "told": told,
    }
    store(item.targets, picture, item.made, cloaked, numbers, stopped=False)
    print(
        f"{shown(item.targets.protected)}: {made.psnr:.1f} dB, at most {largest:.0f} of 255 levels, {1000 * spent:.0f} ms. "
        f"Trained against {', '.join(cloak.against) or 'nothing that is named'}; what it does to others was not measured."
    )
    if args.refine > 0:
        print(
            f"Refined in {args.refine} steps, within the protection's own budget instead of the cloak's limit."
        )
    for line in told:
        print(f"  {line}")
    return 0


def _place_of(args: argparse.Namespace) -> Item:
    """Where the result goes; FluxGuardError where it would replace a file or could not be written."""
    beside = (args.cloak, args.mask, args.points)
    files = [*(path for path in beside if path is not None), *named_files(args)]
    targets = single_target(args.output, [args.photo, *files])
    check_writable(targets.every)
    digest = settings_digest(args, None, files)
    return item_of(args.photo, targets, digest, again=True, html=False)


def _refined(
    photo: Tensor,
    cloaked: Tensor,
    ensemble: Ensemble | None,
    points: Tensor,
    mask: Tensor | None,
    steps: int,
) -> Tensor:
    """A few steps of the protection of photos, from the cloak on."""
    if ensemble is None:
        raise FluxGuardError(
            "There is no recogniser to refine the cloak against.",
            "Give one with ‹give recogniser›.",
        )
    preset = replace(photo_preset_named("default"), steps=steps)
    done = protect_pixels(photo, ensemble, points, preset, mask=mask, warm=cloaked)
    return done.picture


@torch.no_grad()
def _recognised(
    ensemble: Ensemble | None, photo: Tensor, cloaked: Tensor, points: Tensor
) -> list[str]:
    lines = []
    for encoder in ensemble.members if ensemble else ():
        before, after = (encoder(align(x, points[None], encoder.crop))[0] for x in (photo, cloaked))
        role = "attacked" if ensemble and encoder in ensemble.attacked else "held out"
        alike = float(before @ after)
        verdict = "threshold not known"
        if encoder.thresholds:
            verdict = "still matches" if alike > encoder.threshold() else "no longer matches"
        lines.append(f"{encoder.name} ({role}): similarity {alike:.2f}, {verdict}")
    return lines


def _detector(args: argparse.Namespace, world: World) -> str:
    return args.detector or ("miniature" if world == "drawn" else "yunet")


def _targets(args: argparse.Namespace, world: World) -> tuple[Target, ...]:
    targets: list[Target] = []
    for file in args.attgan:
        gan = load_attgan(file)
        if gan.world != world:
            raise FluxGuardError(
                f"{shown(Path(file).name)} knows {gan.world} faces, and these pictures are of the other world."
            )
        fake = attribute_fake(AttributeEditor.of(Path(file).name, gan))
        targets.append(Asked(fake) if args.ask_only else fake)
    return tuple(targets)


def _ensemble(args: argparse.Namespace, world: World) -> Ensemble | None:
    """The recognisers that were named; of drawn portraits the miniature's by the name mini."""
    if args.recogniser == ["mini"]:
        from ..mini.faces import load_ensemble

        ensemble = load_ensemble(held_out=["mobileface"])
    elif args.recogniser:
        ensemble = Ensemble(*recognisers(args.recogniser, args.hold_out))
    else:
        return None
    if any(encoder.world != world for encoder in ensemble.members):
        raise FluxGuardError(f"The recognisers have to know {world} faces, as these pictures are.")
    return ensemble


def _face(path: Path, *, finders: Callable[[Path], FaceFinder | None], side: int) -> Tensor | None:
    """A picture's face in the frame; None for a file that cannot be read or shows none."""
    try:
        picture = read_picture(path).rgb
        finder = finders(path)
        faces = [] if finder is None else choose(finder(picture[0]), "largest")
    except FluxGuardError:
        return None
    points = faces[0].landmarks if faces else None
    return None if points is None else cut_to(CELEBA_FRAME, side, picture, points)[0]
