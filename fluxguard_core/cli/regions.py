"""`fluxguard regions` and `fluxguard mask`: which regions a wish names, and where they are in a photo."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FluxGuardError
from ..regions.words import Understanding, UnknownWords, message, understand

if TYPE_CHECKING:
    from torch import Tensor

    from ..faces.face import FaceFinder
    from ..regions.sources import MaskSource


_MASK = "mask"
"""What masks and their overlays are marked with, so that they alone are replaced."""


def register(subparsers: Any) -> None:
    """Add `regions` and `mask` to the `fluxguard` parser."""
    _register_regions(subparsers)
    _register_mask(subparsers)


def _register_regions(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "regions",
        help="say which regions of a portrait a wish names",
        description="Reads a wish, or the difference of two prompts, and names the regions of the face that "
        "an edit would change. Loads a network only for --meaning.",
    )
    parser.add_argument("wish", metavar="WISH", help="an edit or a target prompt")
    parser.add_argument("--source", metavar="TEXT", help="prompt of the picture before the edit")
    parser.add_argument(
        "--meaning",
        metavar="DIR",
        help="text encoder for words that are not in the lexicon: a diffusers FLUX folder, or a sentence encoder's",
    )
    parser.add_argument("--json", action="store_true", help="regions, unknown, kept, how")
    parser.set_defaults(run=run_regions)


def _register_mask(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "mask",
        help="draw the mask of a wish on a photo",
        description="Finds what a wish would change in a photo and writes it as a mask: white may change.",
    )
    parser.add_argument("photo", metavar="PHOTO")
    parser.add_argument(
        "--prompt", required=True, metavar="TEXT", help="the wish, or a target prompt"
    )
    parser.add_argument("--source-prompt", metavar="TEXT", help="what the photo shows")
    parser.add_argument("-o", "--output", required=True, metavar="MASK.png")
    parser.add_argument(
        "--overlay", action="store_true", help="write MASK-overlay.png too: regions in colour"
    )
    parser.add_argument(
        "--parser",
        default="auto",
        metavar="KIND",
        help="auto (default: the best that is on this machine), bisenet[:FILE], segformer[:DIR], clipseg[:DIR], "
        "concepts[:DIR] (concept attention of a FLUX in a diffusers folder, without it the miniature's), or miniature "
        "for its drawn portraits",
    )
    parser.add_argument("--grow", type=float, default=0, metavar="PX", help="negative shrinks")
    parser.add_argument("--feather", type=float, default=0, metavar="PX", help="soften the edge")
    parser.add_argument(
        "--keep-identity",
        action="store_true",
        help="leave eyes, brows, nose and mouth out unless the prompt names them",
    )
    parser.add_argument("--mask", metavar="PNG", help="a mask of your own to combine with")
    parser.add_argument("--combine", choices=("add", "intersect", "subtract"), default="add")
    parser.set_defaults(run=run_mask)


def run_regions(args: argparse.Namespace) -> int:
    """Handler of `fluxguard regions`."""
    found = understand(args.wish, args.source)
    if args.meaning and not found.regions:
        from ..regions.meaning import encoder_from, meaning, understand_with

        found = understand_with(meaning(encoder_from(args.meaning)), args.wish, args.source)
    if args.json:
        print(json.dumps(_as_json(found), ensure_ascii=False))
        return 0
    if not found.regions:
        raise UnknownWords(*message(args.wish, found))
    how = " (by meaning)" if found.how == "meaning" else ""
    print(f"{', '.join(found.regions)}{how}")
    if found.kept:
        print(f"kept as they are: {', '.join(found.kept)}")
    if found.unknown:
        print(f"not understood: {', '.join(found.unknown)}")
    return 0


def _as_json(found: Understanding) -> dict[str, Any]:
    return {
        "regions": list(found.regions),
        "unknown": list(found.unknown),
        "kept": list(found.kept),
        "how": found.how,
    }


def run_mask(args: argparse.Namespace) -> int:
    """Handler of `fluxguard mask`."""
    from ..pictures.files import read_mask, read_picture, write_png
    from ..regions.found import combined, latent_mask, shaped
    from ..regions.overlay import overlay

    output = Path(args.output)
    place = output.with_name(f"{output.stem}-overlay.png")
    _check_outputs(args, output, place)
    picture = read_picture(args.photo)
    found = mask_source(args.parser, picture.rgb, keep_identity=args.keep_identity)(
        picture.rgb[0], args.prompt, args.source_prompt
    )
    if args.mask:
        found = combined(found, read_mask(args.mask, picture.size), args.combine)
    found = shaped(found, pixels=args.grow, edge=args.feather)
    latent_mask(found, 16)  # a mask that FLUX's cells do not see is told now
    write_png(output, found.mask, mark=_MASK)
    print(f"{output}: {found.told()}")
    if args.overlay:
        write_png(place, overlay(picture.rgb, found), mark=_MASK)
        print(place)
    return 0


def _check_outputs(args: argparse.Namespace, output: Path, overlay: Path) -> None:
    """FluxGuardError where the mask would replace something else than an earlier mask, or cannot be written."""
    from ..pictures.files import mark_of
    from .names import check_not_read, check_writable, shown

    if output.suffix.lower() != ".png":
        raise FluxGuardError(f"Expected a mask ending in .png, got '{shown(output.name)}'.")
    files = [output, *([overlay] if args.overlay else [])]
    check_not_read(files, [Path(path) for path in (args.photo, args.mask) if path])
    check_writable(files)
    there = next((path for path in files if path.exists() and mark_of(path) != _MASK), None)
    if there is not None:
        raise FluxGuardError(
            f"{shown(there)} is there already and is no mask of FluxGuard, so it is not replaced.",
            "Move it away, or choose another ‹give output›.",
        )


def mask_source(text: str, rgb: Tensor, *, keep_identity: bool = False) -> MaskSource:
    """The source that `--parser` names, for a picture [1,3,H,W]."""
    from ..regions.sources import auto_source, parser_source

    kind, _, place = text.partition(":")
    if kind == "auto" and not place:
        return auto_source(**_connected(rgb, keep_identity))
    if kind == "miniature" and not place:
        from ..mini.faces import parse_face

        return parser_source(parse_face, "miniature", keep_identity=keep_identity)
    if kind == "concepts":
        return _by_concepts(place or None, keep_identity)
    if kind in ("bisenet", "segformer", "clipseg"):
        return _from_file(kind, place or None, keep_identity)
    raise FluxGuardError(
        f"Unknown --parser {text!r}; expected auto, bisenet[:FILE], segformer[:DIR], clipseg[:DIR], concepts[:DIR] or "
        "miniature."
    )


def _by_concepts(place: str | None, keep_identity: bool) -> MaskSource:
    """Concept attention of a FLUX; the face's points come from YuNet where it is on this machine."""
    from ..backends.flux_concepts import flux_concepts
    from ..regions.concepts import concept_source

    if place is None:
        from ..mini.faces import find_faces
        from ..mini.text import CONCEPTS
        from ..mini.world import load_stack

        return concept_source(
            flux_concepts(load_stack()),
            lambda picture: _points(find_faces, picture),
            phrases=CONCEPTS,
            keep_identity=keep_identity,
        )
    from ..backends.flux_folder import from_folder
    from ..faces.detectors import yunet
    from ..weights import load_manifest
    from ..weights.where import find

    file = find(load_manifest()["yunet"])
    finder = None if file is None else yunet(file)
    return concept_source(
        flux_concepts(from_folder(place)),
        lambda picture: None if finder is None else _points(finder, picture),
        keep_identity=keep_identity,
    )


def _points(find_faces: FaceFinder, picture: Tensor) -> Tensor | None:
    """The landmarks of the largest face."""
    from ..faces.face import choose

    faces = [face for face in find_faces(picture) if face.landmarks is not None]
    return choose(faces, "largest")[0].landmarks if faces else None


def _connected(rgb: Tensor, keep_identity: bool) -> dict[str, MaskSource]:
    """What is on this machine and knows such a picture, best first."""
    from ..mini.world_check import world_of
    from ..weights import load_manifest
    from ..weights.where import find

    if world_of(rgb) == "drawn":
        return {"miniature": mask_source("miniature", rgb, keep_identity=keep_identity)}
    entries = {"bisenet": "bisenet", "segformer": "segformer-face", "clipseg": "clipseg"}
    there = [kind for kind, name in entries.items() if find(load_manifest()[name]) is not None]
    landmarks = _by_points(rgb, keep_identity)
    if not there and landmarks is None:
        raise FluxGuardError(
            "No face parser for photos is on this machine; the built-in one knows only the miniature's drawn "
            "portraits.",
            "Fetch one with ‹run models download bisenet›, or name a file with --parser bisenet:FILE.",
        )
    found = {kind: _from_file(kind, None, keep_identity) for kind in there if kind != "clipseg"}
    if landmarks is not None:
        found["landmarks"] = landmarks
    if "clipseg" in there:
        found["clipseg"] = _from_file("clipseg", None, keep_identity)
    return found


def _by_points(rgb: Tensor, keep_identity: bool) -> MaskSource | None:
    """The parts of an average face at YuNet's five points, where its file is on this machine and finds a face."""
    from ..faces.detectors import yunet
    from ..regions.sources import landmark_source
    from ..weights import load_manifest
    from ..weights.where import find

    file = find(load_manifest()["yunet"])
    points = None if file is None else _points(yunet(file), rgb[0])
    return None if points is None else landmark_source(points, keep_identity=keep_identity)


def _from_file(kind: str, place: str | None, keep_identity: bool) -> MaskSource:
    from ..regions.parsers import bisenet_parser, segformer_parser
    from ..regions.segmentation import clipseg
    from ..regions.sources import parser_source, words_source
    from ..weights import load_manifest, require

    name = {"bisenet": "bisenet", "segformer": "segformer-face", "clipseg": "clipseg"}[kind]
    entry = load_manifest()[name]
    path = Path(place) if place else Path(require(entry))
    expected = None if place else entry
    if kind == "bisenet":
        return parser_source(
            bisenet_parser(path, expected=expected), kind, keep_identity=keep_identity
        )
    folder = path if path.is_dir() else path.parent
    if kind == "segformer":
        parser = segformer_parser(folder, expected=expected)
        return parser_source(parser, kind, keep_identity=keep_identity)
    return words_source(clipseg(folder, expected=expected))
