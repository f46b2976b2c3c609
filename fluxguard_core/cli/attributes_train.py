"""`fluxguard attributes train --faces DIR`: an AttGAN of one's own, from pictures with CelebA's kind of list."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..defences.attgan import AttGANShape
from ..defences.attgan_data import LIST, gather_faces, read_list
from ..defences.attgan_files import save_attgan
from ..defences.attgan_training import AttGANPlan, AttGANRun, train_attgan
from ..defences.attribute_edit import CELEBA_FRAME, cut_to
from ..defences.attributes import PUBLISHED
from ..errors import FluxGuardError
from ..faces.face import FaceFinder, choose
from ..mini.world_check import world_of
from ..pictures.files import read_picture
from .finding import finder_for
from .names import shown
from .progress import stopping


def add_arguments(parser: Any) -> None:
    """The options of training, in a group of their own."""
    group = parser.add_argument_group(
        "training (fluxguard attributes train --faces DIR -o FILE.safetensors)"
    )
    group.add_argument(
        "--faces", type=Path, metavar="DIR", help=f"pictures, with {LIST} among them"
    )
    group.add_argument(
        "--list-file", type=Path, metavar="FILE", help="the list where it lies elsewhere"
    )
    group.add_argument(
        "--side",
        type=int,
        default=128,
        help="of the faces (default: 128; 256 and 384 as published)",
    )
    group.add_argument(
        "--width", type=int, default=64, help="of the networks (default: 64, as published)"
    )
    group.add_argument("--steps", type=int, help="default: 200 rounds over the pictures")
    group.add_argument("--minutes", type=float, help="let the schedule follow the clock instead")
    group.add_argument("--batch", type=int, default=32)


def run(args: argparse.Namespace) -> int:
    """Train, resumably; returns the exit code."""
    if args.faces is None or args.output is None:
        raise FluxGuardError(
            "Training needs labelled pictures and a place for its file.",
            "Give ‹give faces› DIR and ‹give output› FILE.safetensors.",
        )
    out = Path(args.output)
    if out.suffix != ".safetensors":
        raise FluxGuardError(f"Expected a file ending in .safetensors, got '{shown(out.name)}'.")
    listed = read_list(args.list_file or args.faces / LIST)
    names = (
        tuple(args.names.split(","))
        if args.names
        else tuple(n for n in PUBLISHED if n in listed.names)
    )
    shape = AttGANShape(names, args.side, args.width)
    if not names or args.side < 64 or args.side % 2**shape.layers:
        raise FluxGuardError(
            f"Expected names of the list and a side that is a multiple of {2**shape.layers} from 64 up, got "
            f"'{','.join(names)}' and {args.side}."
        )
    first = next((args.faces / name for name in listed.rows if (args.faces / name).is_file()), None)
    if first is None:
        raise FluxGuardError(f"None of the listed pictures lies in {shown(args.faces)}.")
    world = world_of(read_picture(first).rgb)
    kind = args.detector or ("miniature" if world == "drawn" else "yunet")
    finders = finder_for(args.points, kind, world)
    faces = gather_faces(
        args.faces,
        names,
        args.side,
        partial(_face, finders=finders, side=args.side),
        out.with_suffix(".faces"),
        list_file=args.list_file,
        log=print,
    )
    print(f"{len(faces.faces)} faces ({world}); left out for want of a face: {faces.left_out}")
    # Five critic's updates and one of the generator's see the pictures once each, as published.
    steps = args.steps or 200 * max(1, len(faces.faces) // args.batch)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    plan = AttGANPlan(steps, minutes=args.minutes, seed=args.seed, device=device)
    training = AttGANRun.fresh(shape, plan)
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    with stopping() as stop:
        draw = partial(faces.draw, batch=args.batch)
        train_attgan(training, draw, plan, checkpoint, print, stopped=stop)
        stopped = stop()
    notes = {"world": world, "steps": str(training.step), "faces": str(len(faces.faces))}
    save_attgan(out, training.generator, training.critic, shape, notes, critic=True)
    print(
        f"Written {shown(out)}. Run the same command again to go on from {shown(checkpoint.name)}."
    )
    return 130 if stopped else 0


def _face(path: Path, *, finders: Callable[[Path], FaceFinder | None], side: int) -> Tensor | None:
    """A picture's face as AttGAN wants it; None for a file that cannot be read or shows none."""
    try:
        picture = read_picture(path).rgb
        finder = finders(path)
        faces = [] if finder is None else choose(finder(picture[0]), "largest")
    except FluxGuardError:
        return None
    points = faces[0].landmarks if faces else None
    return None if points is None else cut_to(CELEBA_FRAME, side, picture, points)[0]
