"""`fluxguard bench speed`: what protecting one face takes, beside the refiner on the same face and recognisers."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..backends.flux import decode_latent, encode_image
from ..backends.taesd import DECODER_BLOCKS, ENCODER_BLOCKS, WIDTH, narrow_autoencoder
from ..faces.crops import ARCFACE_TEMPLATE
from ..mini.models import encoder_features
from ..protect.assemble import assemble_refiner
from ..protect.perceptual import feature_distance
from ..protect.photo import protect_pixels
from ..protect.presets import PHOTO_PRESETS, PRESETS
from ..protect.run import protect_latent
from ..recognition.encoder import FaceEncoder, Threshold
from ..recognition.ensemble import Ensemble
from ..recognition.identity import untargeted
from ..resampling import bicubic

SIZES = (256, 512)
RECOGNISERS = ("mobile_face", "facenet", "iresnet50")  # 1.2, 23 and 44 million weights
WAYS = ("photo", "refiner")


@dataclass(frozen=True)
class Speed:
    """Seconds of the clock and of all processors, and how often the recognisers looked."""

    seconds: float
    processor_seconds: float
    looks: int


def register(kinds: Any) -> None:
    """Add `speed` to the `bench` parser."""
    parser = kinds.add_parser(
        "speed",
        help="seconds for one face with three recognisers at their real sizes, random weights",
        description="Protects the face of a square of 256 and 512 pixels as a photo without an edit (photo), and as "
        "the default of edits does it after an edit (refiner), with the same recognisers, in turn. Random weights are "
        "never fooled, so every step is taken.",
    )
    parser.add_argument("--size", type=int, action="append", help="of the square; may be repeated")
    parser.add_argument("--threads", type=int, default=2, help="of the processor (default 2)")
    parser.add_argument("--way", choices=WAYS, action="append", help="only this one")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Handle `bench speed`: each way and size in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    table: dict[str, dict[str, float]] = {}
    if not args.json:
        print(f"one face, {', '.join(RECOGNISERS)} attacked, {args.threads} threads", flush=True)
    for size in args.size or SIZES:
        for way in args.way or WAYS:
            with spawn.Pool(1) as process:
                speed: Speed = process.apply(measure, (way, size, args.threads))
            table[f"{way}, {size} px"] = asdict(speed)
            if not args.json:
                told = f"{speed.seconds:7.1f} s   {speed.processor_seconds:7.1f} s of processors"
                print(f"  {way:<8} {size:>4} px {told}   {speed.looks} looks", flush=True)
    if args.json:
        print(json.dumps({"threads": args.threads, "speed": table}))
    return 0


def measure(way: str, size: int, threads: int) -> Speed:
    """One way at one size."""
    torch.set_num_threads(threads)
    ensemble = Ensemble(tuple(_recogniser(name) for name in RECOGNISERS))
    picture, points = face_square(size)
    ready = (
        _photo(picture, points, ensemble) if way == "photo" else _refiner(picture, points, ensemble)
    )
    begun, worked = time.perf_counter(), time.process_time()
    looks = ready()
    return Speed(time.perf_counter() - begun, time.process_time() - worked, looks)


def _recogniser(name: str) -> FaceEncoder:
    from .bench import REAL_SIZES, real_size

    torch.manual_seed(0)
    limit = Threshold(1e-2, 0.3, "made up: random weights recognise nobody")
    return FaceEncoder(name, real_size(name), REAL_SIZES[name], thresholds=(limit,))


def face_square(size: int) -> tuple[Tensor, Tensor]:
    """A square [1, 3, size, size] of smooth colour, and the five points of the face that fills it [5, 2]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 16, 16, generator=generator)
    picture = bicubic(coarse, (size, size)).clamp(0, 1)
    points = (ARCFACE_TEMPLATE / 112 * 0.66 + 0.17) * size
    return (picture * 255).round() / 255, points


def _photo(picture: Tensor, points: Tensor, ensemble: Ensemble) -> Callable[[], int]:
    preset = PHOTO_PRESETS["default"]

    def protect() -> int:
        done = protect_pixels(picture, ensemble, points, preset)
        return len(done.log) * preset.views

    return protect


def _refiner(picture: Tensor, points: Tensor, ensemble: Ensemble) -> Callable[[], int]:
    """The default of edits on a finished picture, with a tiny autoencoder and its encoder's features."""
    preset = PRESETS["default"]
    vae = narrow_autoencoder((WIDTH,) * 4, ENCODER_BLOCKS, DECODER_BLOCKS[::-1])
    with torch.no_grad():
        latent = encode_image(vae, picture)
    latent = (latent - latent.mean()) / latent.std()
    refiner, window = assemble_refiner(
        preset,
        ensemble,
        untargeted(),
        picture,
        points[None],
        (latent.shape[-2], latent.shape[-1]),
        pixels=8,
        decode=lambda z: decode_latent(vae, z),
        perceptual=feature_distance(encoder_features(vae)),
        source=latent,
    )

    def protect() -> int:
        done = protect_latent(latent, refiner, rounds=preset.attacked, window=window)
        return len(done.log) * (1 + preset.random_views)

    return protect
