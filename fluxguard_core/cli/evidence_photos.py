"""The protocols on the user's photos: who is on them, where the faces are, which recognisers judge."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch

from ..backends.flux import decode_latent, encode_image
from ..backends.flux_files import load_vae
from ..errors import FluxGuardError
from ..faces.face import Face, choose
from ..pictures.files import read_picture
from ..pipelines.evidence import photos
from ..pipelines.evidence.bench import Arm, Bench
from ..pipelines.evidence.pixel_arms import crowd_of, photo_arms, rivals, unprotected
from ..protect.photo import Autoencoder
from .finding import parse_detector
from .sources import recognisers


def photo_bench(args: argparse.Namespace) -> tuple[Bench, list[Arm]]:
    """Bench and treatments of `--faces`."""
    if not args.recogniser:
        raise FluxGuardError(
            "Photos are judged by recognisers that know photos.",
            "Give two or more with ‹give recogniser› (see ‹run models list›).",
        )
    attackable, always = recognisers(args.recogniser, args.hold_out)
    drawn = [e.name for e in (*attackable, *always) if e.world == "drawn"]
    if drawn:
        raise FluxGuardError(f"{drawn[0]} knows drawn faces only and never judges a photo.")
    names = None if args.identities is None else photos.read_identities(args.identities)
    bench = photos.photo_bench(
        photos.listed_photos(args.faces, _finder(args), names),
        attackable,
        always,
        pairs=None if args.targets is None else photos.target_pairs(args.targets),
        people=args.people,
        turns=args.turns,
        seed=args.seed,
    )
    coder = None
    if args.autoencoder is not None:
        vae = load_vae(args.autoencoder)
        coder = Autoencoder(lambda x: encode_image(vae, x), lambda z: decode_latent(vae, z))
    return bench, [unprotected(), *photo_arms(coder), *rivals(crowd_of(bench))]


def _finder(args: argparse.Namespace) -> Callable[[Path], Face | None]:
    if args.points is None:
        finder = parse_detector("yunet")
        assert finder is not None

        def found(path: Path) -> Face | None:
            faces = [f for f in finder(read_picture(path).rgb[0]) if f.landmarks is not None]
            return choose(faces, "largest")[0] if faces else None

        return found
    listed = json.loads(args.points.read_text(encoding="utf-8"))

    def known(path: Path) -> Face | None:
        entry = listed.get(path.relative_to(args.faces).as_posix(), listed.get(path.name))
        if entry is None:
            return None
        points = torch.tensor(entry["points"]).float()
        (left, top), (right, bottom) = points.amin(0).tolist(), points.amax(0).tolist()
        return Face((left, top, right, bottom), points, 1.0)

    return known
