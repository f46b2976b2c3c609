"""`fluxguard calibrate`: thresholds of a recogniser, measured on the user's own pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..faces.alignment import align, whole_frame
from ..faces.crops import Crop
from ..faces.face import FaceFinder, choose
from ..pictures.files import PictureError, read_picture
from ..pictures.folder import photos_in
from ..recognition.encoder import FaceEncoder
from ..recognition.loading import load_encoder
from ..recognition.thresholds import FALSE_ACCEPT_RATES, Calibration, calibrate, save_calibration
from .command_line import TERMINAL
from .finding import add_detector, parse_detector


def register(subparsers: Any) -> None:
    """Add `calibrate` to the `fluxguard` parser."""
    parser = subparsers.add_parser(
        "calibrate",
        help="measure a recogniser's thresholds on pictures of strangers",
        description="Cosine thresholds at false accept rates 1e-2, 1e-3 and 1e-4, kept beside the "
        "model file. Each picture is a person of its own, unless people have sub-folders.",
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="recogniser files")
    parser.add_argument("--faces", required=True, type=Path, help="folder of pictures of strangers")
    add_detector(parser, "miniature")
    parser.add_argument("--colour", choices=("rgb", "bgr", "both"), help="channel order to feed")
    parser.set_defaults(run=run_calibrate)


def pictures_of(folder: Path) -> list[tuple[Path, str]]:
    """Picture files under a folder with the person each shows: the sub-folder, else the file."""
    photos = photos_in(folder, recursive=True)
    for line in photos.told():
        print(f"passed over: {TERMINAL(line)}")
    return [(p, str(p if p.parent == folder else p.parent)) for p in photos.taken]


def _crop(image: Tensor, find_faces: FaceFinder | None, size: Crop) -> Tensor | None:
    """The largest face [1,3,size,size] of a picture [3,H,W]; None when there is none."""
    if find_faces is None:
        return whole_frame(image[None], size)
    faces = find_faces(image)
    if not faces:
        return None
    landmarks = choose(faces, "largest")[0].landmarks
    return None if landmarks is None else align(image[None], landmarks[None], size)


@torch.no_grad()
def embed_folder(
    encoders: Sequence[FaceEncoder], folder: Path, find_faces: FaceFinder | None
) -> tuple[list[Tensor], list[str], int]:
    """Embeddings [N,D] for each encoder, the people they show, and the pictures without a face."""
    rows: list[list[Tensor]] = [[] for _ in encoders]
    people: list[str] = []
    without = 0
    for path, person in pictures_of(folder):
        try:
            image = read_picture(path).rgb[0]
        except PictureError as error:
            print(f"left out: {error.told(TERMINAL)}")
            continue
        crops = {crop: _crop(image, find_faces, crop) for crop in {e.crop for e in encoders}}
        if any(crop is None for crop in crops.values()):
            without += 1
            continue
        people.append(person)
        for row, encoder in zip(rows, encoders, strict=True):
            crop = crops[encoder.crop]
            assert crop is not None
            row.append(encoder(crop)[0].cpu())
    if not people:
        raise FluxGuardError(
            f"No face was found in any of the {without} pictures in {folder}; try another "
            "--detector."
        )
    return [torch.stack(row) for row in rows], people, without


def run_calibrate(args: argparse.Namespace) -> int:
    """Handler of `fluxguard calibrate`."""
    detector = args.detector or "miniature"
    find_faces = parse_detector(detector)
    encoders = [load_encoder(path, colour=args.colour) for path in args.models]
    embedded, people, without = embed_folder(encoders, args.faces, find_faces)
    if without:
        print(f"{without} pictures without a face were left out.")
    for path, encoder, embeddings in zip(args.models, encoders, embedded, strict=True):
        source = f"own calibration: {len(people)} pictures of {len(set(people))} people, "
        source += f"detector {detector.partition(':')[0]}"
        thresholds = calibrate(embeddings, source, people=people)
        mean_face = F.normalize(embeddings.mean(0), dim=0)
        place = save_calibration(path, Calibration(thresholds, encoder.colour, mean_face))
        known = {t.far: f"{t.value:.4f}" for t in thresholds}
        cells = [f"FAR {far:g}: {known.get(far, 'too few pairs')}" for far in FALSE_ACCEPT_RATES]
        print(f"{encoder.name}: {', '.join(cells)} -> {place}")
    return 0
