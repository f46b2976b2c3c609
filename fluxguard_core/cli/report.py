"""`fluxguard report`: what recognisers say about a picture that is already protected."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.html import write_html
from ..evaluate.likeness import Likeness, likeness_of_faces
from ..evaluate.quality import quality
from ..evaluate.report import Pictures, Report
from ..evaluate.similarity import Recognition, Shot, linkability, second_shot
from ..evaluate.surroundings import measure_face, surroundings
from ..faces.face import Face, FaceChoice, FaceFinder, anew, choose
from ..pictures.face_crop import Box, union
from ..pictures.files import read_picture
from ..recognition.encoder import FaceEncoder
from .finding import add_detector, add_face, finder_for, parse_face
from .names import check_writable, shown
from .sources import add_recognisers, recognisers
from .world_gate import check_world


def register(subparsers: Any) -> None:
    """Add `report` to the `fluxguard` parser."""
    parser = subparsers.add_parser(
        "report",
        help="measure a protected picture against face recognisers",
        description="Compares a protected picture with its original through face recognisers, also "
        "after recompression, scaling, blur and noise, and writes one HTML page. Without --recogniser "
        "it asks the miniature's five.",
    )
    parser.add_argument("original", type=Path, help="the portrait before everything")
    parser.add_argument("protected", type=Path, help="the picture to publish")
    parser.add_argument("--edited", type=Path, help="the edit before protection, if there was one")
    parser.add_argument("--second", type=Path, help="another photo of the same person")
    parser.add_argument(
        "--also",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="another protected picture of the person, for how well they lead to each other; may be repeated",
    )
    add_recognisers(parser)
    add_detector(parser, "yunet; the miniature's for drawn portraits")
    add_face(parser)
    parser.add_argument("--far", type=float, default=1e-2, help="false accept rate (default 0.01)")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"))
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.set_defaults(run=run_report)


def run_report(args: argparse.Namespace) -> int:
    """Handler of `fluxguard report`."""
    begun = time.perf_counter()
    _check_outputs(args)
    original = read_picture(args.original).rgb
    protected = _same_size(args.protected, read_picture(args.protected).rgb, original)
    edited = original
    if args.edited is not None:
        edited = _same_size(args.edited, read_picture(args.edited).rgb, original)
    members = _members(args.recogniser, args.hold_out)
    world = check_world(original, shown(args.original), [encoder for encoder, _ in members])
    detector = args.detector or ("miniature" if world == "drawn" else "yunet")
    find_in = finder_for(args.points, detector, world)
    finder = find_in(args.original)
    second, left_out = None, ""
    if args.second is not None:
        second, left_out = _second(read_picture(args.second).rgb, find_in(args.second))
    pictures = Pictures(original, edited, protected)
    measured = measure_pictures(
        pictures,
        members,
        finder,
        which=parse_face(args.face),
        second=second,
        far=args.far,
    )
    report = Report(
        recognisers=measured.recognisers,
        edit=quality(measured.seen.edited, measured.seen.source),
        protection=quality(measured.seen.protected, measured.seen.edited),
        likeness=measured.likeness,
        size=(int(original.shape[-2]), int(original.shape[-1])),
        identity="",
        preset="",
        settings={"detector": detector.partition(":")[0]},
        seconds={"measuring": time.perf_counter() - begun},
        notes=(*measured.notes, *((left_out,) if left_out else ())),
    )
    if args.also:
        report = replace(report, links=_links(members, [args.protected, *args.also], find_in))
    write_html(args.output, report, measured.seen)
    if args.json is not None:
        report.write_json(args.json)
    print(f"{report.verdict.headline}\n{report.verdict.detail}")
    for look in report.likeness:
        print(f"Likeness: {look.told()}")
    print(f"Report: {shown(args.output)}")
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """FluxGuardError where the page or the numbers would replace a picture, or cannot be written."""
    for path, ends in ((args.output, (".html", ".htm")), (args.json, (".json",))):
        if path is not None and path.suffix.lower() not in ends:
            raise FluxGuardError(f"Expected a name ending in {ends[0]}, got '{shown(path.name)}'.")
    check_writable([path for path in (args.output, args.json) if path is not None])


@dataclass(frozen=True, eq=False)
class Measured:
    """What was asked about a face.

    Args:
        seen: the part of the pictures that holds the measured faces.
    """

    recognisers: tuple[Recognition, ...]
    likeness: tuple[Likeness, ...]
    seen: Pictures
    notes: tuple[str, ...]


def measure_pictures(
    pictures: Pictures,
    members: Sequence[tuple[FaceEncoder, bool]],
    find_faces: FaceFinder | None,
    *,
    which: FaceChoice = "largest",
    second: Shot | None = None,
    far: float = 1e-2,
) -> Measured:
    """Every recogniser's results on three pictures of one size, faces found anew in each of them."""
    height, width = pictures.source.shape[-2:]
    whole = Face((0, 0, width, height), None, 1.0)
    faces = [whole] if find_faces is None else choose(find_faces(pictures.source[0]), which)
    results: list[Recognition] = []
    boxes = [surroundings(face, (height, width)) for face in faces]
    for number, (face, box) in enumerate(zip(faces, boxes, strict=True)):
        found = measure_face(
            members,
            (
                _part(pictures.source, box),
                _part(pictures.edited, box),
                _part(pictures.protected, box),
            ),
            face.moved(box[0], box[1]),
            anew(find_faces),
            second=second,
            far=far,
        )
        several = len(faces) > 1
        results += (replace(r, name=f"{r.name}, face {number}") if several else r for r in found)
    box = union(boxes)
    source, edited, protected = (
        _part(p, box) for p in (pictures.source, pictures.edited, pictures.protected)
    )
    seen = Pictures(source, edited, protected)
    rows, columns = seen.source.shape[-2:]
    told = f"Closeness was measured on the face's surroundings, {columns} x {rows} of {width} x {height} pixels."
    looks = likeness_of_faces(
        pictures.edited, pictures.protected, [face.landmarks for face in faces]
    )
    notes = () if (rows, columns) == (height, width) else (told,)
    return Measured(tuple(results), looks, seen, notes)


def _part(picture: Tensor, box: Box) -> Tensor:
    left, top, right, bottom = box
    return picture[..., top:bottom, left:right]


def _members(given: Sequence[str], hold_out: Sequence[str]) -> list[tuple[FaceEncoder, bool]]:
    """Recognisers, and whether each counts as attacked."""
    if given:
        attacked, held_out = recognisers(given, hold_out)
    else:
        from ..mini.faces import load_ensemble

        ensemble = load_ensemble(held_out=hold_out)
        attacked, held_out = ensemble.attacked, ensemble.held_out
    return [(encoder, True) for encoder in attacked] + [(encoder, False) for encoder in held_out]


def _links(
    members: Sequence[tuple[FaceEncoder, bool]],
    paths: Sequence[Path],
    find_in: Callable[[Path], FaceFinder | None],
) -> dict[str, float]:
    """How similar the person's protected pictures are to each other, by recogniser."""
    shots = []
    for path in paths:
        shot, _ = _second(read_picture(path).rgb, find_in(path))
        if shot is None:
            raise FluxGuardError(
                f"No face was found in {shown(path)}, so it cannot be compared with the others.",
                "Leave it out of ‹give also›, or choose another ‹give detector›.",
            )
        shots.append(shot)
    return {encoder.name: linkability(encoder, shots) for encoder, _ in members}


def _second(picture: Tensor, finder: FaceFinder | None) -> tuple[Shot | None, str]:
    """The second photo's face; without a detector both photos are taken whole."""
    return (Shot(picture), "") if finder is None else second_shot(picture, finder)


def _same_size(name: Path, image: Tensor, original: Tensor) -> Tensor:
    if image.shape != original.shape:
        (rows, columns), (height, width) = original.shape[-2:], image.shape[-2:]
        raise FluxGuardError(
            f"{shown(name)} is {width}x{height} pixels, the original {columns}x{rows}: give pictures of "
            "one size."
        )
    return image
