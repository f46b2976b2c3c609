"""`fluxguard report`: what recognisers say about a picture that is already protected."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.html import write_html
from ..evaluate.quality import quality
from ..evaluate.report import Pictures, Report
from ..evaluate.similarity import Recognition, Shot, recognise, share
from ..evaluate.transforms import SHARING
from ..pictures.files import read_picture
from ..recognition import FaceEncoder, FaceFinder, choose
from ..recognition.loading import load_encoder
from .calibrate import parse_detector


def register(subparsers: Any) -> None:
    """Add `report` to the `fluxguard` parser."""
    parser = subparsers.add_parser(
        "report",
        help="measure a protected picture against face recognisers",
        description="Compares a protected picture with its original through face recognisers, also "
        "after recompression, scaling, blur and noise, and writes one HTML page.",
    )
    parser.add_argument("original", type=Path, help="the portrait before everything")
    parser.add_argument("protected", type=Path, help="the picture to publish")
    parser.add_argument("--edited", type=Path, help="the edit before protection, if there was one")
    parser.add_argument("--second", type=Path, help="another photo of the same person")
    parser.add_argument(
        "--recogniser",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="recogniser file, may be repeated; default: the miniature's five",
    )
    parser.add_argument(
        "--unused",
        action="append",
        default=[],
        metavar="NAME",
        help="name of a recogniser that took no part in the protection, may be repeated; every "
        "other one counts as attacked",
    )
    parser.add_argument(
        "--detector", default="miniature", help="miniature, frame, yunet:FILE or insightface:FOLDER"
    )
    parser.add_argument("--far", type=float, default=1e-2, help="false accept rate (default 0.01)")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"))
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.set_defaults(run=run_report)


def _encoders(files: Sequence[Path], unused: Sequence[str]) -> list[tuple[FaceEncoder, bool]]:
    """Recognisers with whether they count as attacked."""
    if files:
        members = [(load_encoder(path), True) for path in files]
    else:
        from ..mini.faces import load_ensemble

        ensemble = load_ensemble()
        members = [(encoder, encoder in ensemble.attacked) for encoder in ensemble.members]
    names = [encoder.name for encoder, _ in members]
    for name in unused:
        if name not in names:
            raise FluxGuardError(f"No recogniser is called {name!r}; there are {', '.join(names)}.")
    return [(encoder, attacked and encoder.name not in unused) for encoder, attacked in members]


def shot_of(image: Tensor, find_faces: FaceFinder | None, fallback: Shot | None = None) -> Shot:
    """The picture [1,3,H,W] with the landmarks of its largest face.

    Where no face is found the fallback's landmarks serve (the protection may hide a face from the
    detector, not from a tracker that knows where it was). Raises FluxGuardError without either.
    """
    if find_faces is None:
        return Shot(image)
    faces = find_faces(image[0])
    if not faces and fallback is not None and fallback.image.shape[-2:] == image.shape[-2:]:
        return Shot(image, fallback.landmarks)
    return Shot(image, choose(faces, "largest")[0].landmarks)


def _same_size(name: Path, image: Tensor, original: Tensor) -> Tensor:
    if image.shape != original.shape:
        (rows, columns), (height, width) = original.shape[-2:], image.shape[-2:]
        raise FluxGuardError(
            f"{name} is {width}x{height} pixels, the original {columns}x{rows}: give pictures of "
            "one size."
        )
    return image


def measure_pictures(
    pictures: Pictures,
    members: Sequence[tuple[FaceEncoder, bool]],
    find_faces: FaceFinder | None,
    *,
    second: Tensor | None = None,
    far: float = 1e-2,
) -> tuple[Recognition, ...]:
    """Every recogniser's results on three pictures, faces found anew in each of them."""
    original = shot_of(pictures.source, find_faces)
    edited = shot_of(pictures.edited, find_faces, original)
    protected = shot_of(pictures.protected, find_faces, original)
    other = None if second is None else shot_of(second, find_faces)
    shared = share(edited, protected, SHARING)
    return tuple(
        recognise(
            encoder,
            original,
            edited,
            protected,
            attacked=attacked,
            second=other,
            shared=shared,
            far=far,
        )
        for encoder, attacked in members
    )


def run_report(args: argparse.Namespace) -> int:
    """Handler of `fluxguard report`."""
    begun = time.perf_counter()
    original = read_picture(args.original).rgb
    protected = _same_size(args.protected, read_picture(args.protected).rgb, original)
    edited = original
    if args.edited is not None:
        edited = _same_size(args.edited, read_picture(args.edited).rgb, original)
    second = None if args.second is None else read_picture(args.second).rgb
    pictures = Pictures(original, edited, protected)
    results = measure_pictures(
        pictures,
        _encoders(args.recogniser, args.unused),
        parse_detector(args.detector),
        second=second,
        far=args.far,
    )
    report = Report(
        recognisers=results,
        edit=quality(edited, original),
        protection=quality(protected, edited),
        size=(int(original.shape[-2]), int(original.shape[-1])),
        identity="",
        preset="",
        settings={"detector": args.detector.partition(":")[0]},
    )
    report = replace(report, seconds={"measuring": time.perf_counter() - begun})
    write_html(args.output, report, pictures)
    if args.json is not None:
        report.write_json(args.json)
    print(f"{report.verdict.headline}\n{report.verdict.detail}\nReport: {args.output}")
    return 0
