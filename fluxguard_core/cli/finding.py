"""Detectors and the choice of a face, in the same words for every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import FluxGuardError
from ..faces.detectors import insightface_detector, typed_box, yunet
from ..faces.face import FaceChoice, FaceFinder
from ..faces.points_file import read_points
from ..weights import load_manifest, require
from ..worlds import World

DETECTORS = (
    "yunet[:FILE], insightface:DIR, miniature (drawn faces only), frame (the whole picture is the face), or "
    "box:LEFT,TOP,RIGHT,BOTTOM in pixels, further boxes after a semicolon"
)


def add_detector(parser: Any, default: str) -> None:
    """The option that says how faces are found; ``default`` in words."""
    parser.add_argument("--detector", metavar="KIND", help=f"{DETECTORS} (default: {default})")
    parser.add_argument(
        "--points", type=Path, metavar="FILE", help="JSON file with five points for each picture"
    )


def add_face(parser: Any) -> None:
    """The option that says which faces are meant."""
    parser.add_argument(
        "--face",
        default="largest",
        metavar="WHICH",
        help="largest (default), a number from 0 on in the detector's order, or all",
    )


def parse_detector(text: str) -> FaceFinder | None:
    """A finder from its words; None for the whole frame."""
    return _maker(text)()


def check_finding(detector: str | None, points: Path | None) -> None:
    """FluxGuardError where the words mean no detector, its file is not here, or the points cannot be read."""
    if detector is not None:
        _maker(detector)
    if points is not None:
        read_points(points)


def _maker(text: str) -> Callable[[], FaceFinder | None]:
    """What makes a finder, so that words can be checked before a network is loaded."""
    kind, _, rest = text.partition(":")
    if text == "frame":
        return lambda: None
    if text == "miniature":
        return _of_the_miniature
    if kind == "yunet":
        file = rest or require(load_manifest()["yunet"])
        return lambda: yunet(file)
    if kind == "insightface" and rest:
        return lambda: insightface_detector(rest)
    if kind == "box" and rest:
        finder = typed_box(*(_box(part) for part in rest.split(";")))
        return lambda: finder
    raise FluxGuardError(f"Expected ‹give detector› as {DETECTORS}; got '{text}'.")


def _of_the_miniature() -> FaceFinder:
    from ..mini import faces

    finder: FaceFinder = faces.find_faces
    return finder


def finder_for(
    points: Path | None, detector: str, world: World
) -> Callable[[Path], FaceFinder | None]:
    """A picture's file -> how faces are found in it, for networks that know this world."""
    if points is not None:
        return read_points(points).on
    if detector == "miniature" and world == "photo":
        raise FluxGuardError(
            "The miniature's detector knows drawn portraits only.",
            "Choose the detector yunet (‹run models download yunet›), or give ‹give points›.",
        )
    finder = parse_detector(detector)
    return lambda picture: finder


def parse_face(text: str) -> FaceChoice:
    """Which faces: ``largest``, ``all`` or a number."""
    if text == "largest":
        return "largest"
    if text == "all":
        return "all"
    if text.isascii() and text.isdigit():
        return int(text)
    raise FluxGuardError(
        f"Expected ‹give face› as largest, all or a number from 0 on; got '{text}'."
    )


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError as error:
        raise FluxGuardError(
            f"Expected ‹give detector› box:LEFT,TOP,RIGHT,BOTTOM in pixels, got 'box:{text}'."
        ) from error
    return left, top, right, bottom
