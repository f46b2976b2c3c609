"""`fluxguard protect`: a portrait file in, an edited and a protected portrait and a report out."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backends.geometry import FLUX
from ..errors import FluxGuardError, Interrupted
from ..evaluate.html import write_html
from ..faces.face import Face, around, choose
from ..pictures.face_crop import FaceCrop, crop_face
from ..pictures.files import Picture, luma, read_mask, read_picture, write_png
from ..pipelines.photo import Job, Models, mask_from_words, protect_portrait, seeded
from ..pipelines.report import Finals, make_report
from ..protect.presets import PRESETS
from ..recognition.identity import EXPLANATIONS, Identity, photo, synthetic, untargeted
from ..regions import EmptyMask
from . import sources
from .plan import chosen_preset, print_plan
from .progress import progress_bars, stopping

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def register(subparsers: Any) -> None:
    """Add the `protect` command to the `fluxguard` parser."""
    parser = subparsers.add_parser(
        "protect",
        help="edit a portrait with words and protect the person in it",
        epilog="Identities. " + " ".join(f"{kind}: {text}" for kind, text in EXPLANATIONS.items()),
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
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument(
        "--steps", type=int, help="intervals of the schedule (default: the preset's)"
    )
    parser.add_argument(
        "--attacked", type=int, metavar="N", help="protect after each of the last N intervals"
    )
    parser.add_argument("--iterates", type=int, metavar="N", help="Adam steps after each of them")
    parser.add_argument("--size", type=int, help="working size in pixels, a multiple of 16")
    parser.add_argument(
        "--face", default="largest", help="largest (default), its number from 0, or all"
    )
    parser.add_argument(
        "--second", metavar="FILE", help="another photo of the person, for the report"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--html", action="store_true", help="write the report as a page, too")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    sources.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Handle the command; returns the exit code."""
    _check_arguments(args)
    photos = _photos(Path(args.photo))
    if args.dry_run:
        print_plan(args, photos)
        return 0
    models = sources.load_models(args)
    failed = 0
    with stopping() as stop:
        for path in photos:
            out = _output(args, path)
            try:
                if not _protect_one(args, models, path, out, stop):
                    return 130
            except (Interrupted, FluxGuardError) as error:
                if len(photos) == 1 or isinstance(error, Interrupted):
                    raise
                failed += 1
                print(f"{path.name}: {error}", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(photos)} pictures could not be protected.", file=sys.stderr)
    return 1 if failed else 0


def _protect_one(
    args: argparse.Namespace, models: Models, path: Path, out: Path, stop: Any
) -> bool:
    """Protect one file; False where the user stopped it and the best so far was saved."""
    started = time.perf_counter()
    picture = read_picture(path)
    photo_rgb = picture.rgb
    faces = _faces(args, models, photo_rgb)
    crop = _crop(photo_rgb, faces, args.size or models.size)
    job = _job(args, models, picture, faces, crop)
    prepared = time.perf_counter()
    with progress_bars(stop, quiet=args.quiet) as observer:
        outcome = protect_portrait(models, job, observer=observer)
    finished = time.perf_counter()
    edited, protected = (
        _finished(picture, crop, result) for result in (outcome.edited, outcome.protected)
    )
    finals = Finals(photo_rgb, edited, protected, faces[0], tuple(faces[1:]))
    second = read_picture(args.second).rgb if args.second else None
    report, pictures = make_report(
        models,
        job,
        outcome,
        finals,
        seconds={"preparation": prepared - started, "run": finished - prepared},
        settings={"seed": args.seed, "working_size": list(job.picture.shape[-2:])},
        second=second,
    )
    write_png(out.with_name(f"{out.stem}-edited.png"), replace(picture, rgb=edited))
    write_png(out, replace(picture, rgb=protected))
    report.write_json(out.with_suffix(".json"))
    if args.html:
        write_html(out.with_suffix(".html"), report, pictures)
    print(f"{out}: {report.verdict.headline}")
    return not outcome.interrupted


def _job(
    args: argparse.Namespace,
    models: Models,
    picture: Picture,
    faces: list[Face],
    crop: FaceCrop | None,
) -> Job:
    working = picture.rgb if crop is None else crop.working
    face, *others = faces if crop is None else [crop.face(face) for face in faces]
    source_prompt = args.source_prompt
    if source_prompt is None:
        if models.describe is None:
            raise FluxGuardError(
                "This model needs --source-prompt: say what the photo shows, for the inversion follows it."
            )
        source_prompt = models.describe(working)
    prompt = args.prompt
    if models.complete is not None:
        prompt = models.complete(source_prompt, args.prompt)
    return Job(
        picture=working,
        source_prompt=source_prompt,
        prompt=prompt,
        mask=_mask(args, models, picture, crop, source_prompt, prompt),
        face=face,
        identity=parse_identity(args.identity),
        preset=seeded(chosen_preset(args), args.seed),
        others=tuple(others),
    )


def parse_identity(text: str) -> Identity:
    """``untargeted``, ``synthetic:SEED`` or ``photo:FILE``."""
    kind, _, rest = text.partition(":")
    if kind == "untargeted" and not rest:
        return untargeted()
    if kind == "synthetic" and (not rest or rest.isdigit()):
        return synthetic(int(rest or 0))
    if kind == "photo" and rest:
        return photo(read_picture(rest).rgb[0])
    raise FluxGuardError(
        f"Expected --identity untargeted, synthetic:SEED or photo:FILE, got '{text}'."
    )


def _mask(
    args: argparse.Namespace,
    models: Models,
    picture: Picture,
    crop: FaceCrop | None,
    source_prompt: str,
    prompt: str,
) -> Tensor:
    if args.mask is not None:
        mask = read_mask(args.mask, picture.size)
        if crop is None:
            return mask
        inside = crop.to_working(mask).clamp(0, 1)
        if not bool((inside > 0).any()):
            raise EmptyMask(
                f"The mask {Path(args.mask).name} is empty around the face, where the work is done. Paint the "
                "face, or choose another one with --face."
            )
        return inside
    working = picture.rgb if crop is None else crop.working
    return mask_from_words(models, working, source_prompt, prompt)


def _crop(photo_rgb: Tensor, faces: list[Face], size: int) -> FaceCrop | None:
    """The square around all faces to protect."""
    crop = crop_face(photo_rgb, around(faces), size)
    if crop is not None and len(faces) > 1:
        left, top, right, bottom = crop.box
        for x0, y0, x1, y1 in (face.box for face in faces):
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            if not (left < x < right and top < y < bottom):
                raise FluxGuardError(
                    f"The {len(faces)} faces are too far apart for one square of {right - left} pixels. Protect "
                    "one with --face 0, then the result with --face 1, and so on."
                )
    return crop


def _faces(args: argparse.Namespace, models: Models, picture: Tensor) -> list[Face]:
    which: Any = int(args.face) if args.face.isdigit() else args.face
    return choose(models.find_faces(picture[0]), which)


def _finished(picture: Picture, crop: FaceCrop | None, result: Tensor) -> Tensor:
    """The result at the photo's size, grey if the photo is."""
    with torch.no_grad():
        whole = result.cpu() if crop is None else crop.paste(result.cpu())
        return luma(whole).expand(-1, 3, -1, -1) if picture.grey else whole


def _check_arguments(args: argparse.Namespace) -> None:
    if not args.prompt:
        raise FluxGuardError("Expected --prompt with what the edited picture shows, got none.")
    if args.size is not None and (args.size < 64 or args.size % FLUX.pixels_per_token):
        raise FluxGuardError(f"Expected --size as a multiple of 16 from 64 up, got {args.size}.")
    for name in ("attacked", "iterates"):
        given = getattr(args, name)
        if given is not None and given < 1:
            raise FluxGuardError(f"Expected --{name} from 1 up, got {given}.")
    preset = chosen_preset(args)
    if preset.steps <= preset.attacked:
        raise FluxGuardError(
            f"Expected more than {preset.attacked} --steps, of which that many are attacked, got {preset.steps}."
        )


def _photos(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
    if not found:
        raise FluxGuardError(
            f"There is no picture in the folder {path.name} (looked for {', '.join(PICTURES)})."
        )
    return found


def _output(args: argparse.Namespace, path: Path) -> Path:
    target = Path(args.output)
    if Path(args.photo).is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return target / f"{path.stem}.png"
    if target.suffix.lower() != ".png":
        raise FluxGuardError(
            f"Expected an output file ending in .png, got '{target.name}'. PNG keeps the protection exactly; "
            "recompress a copy if you must."
        )
    return target
