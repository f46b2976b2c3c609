"""`fluxguard bench photo`: report and paste-back at 1, 12 and 50 megapixels, with one face and with a growing one."""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.memory import peak_memory
from ..faces.face import Face
from ..pipelines.photo import Measuring, Wishes, measured, pasted, protect_photo
from ..protect.presets import PRESETS

MEGAPIXELS = (1, 12, 50)
FACES = (320, 1280)  # side of the drawn portrait in the photo, in pixels
_PROMPT = "a person with red lipstick"
_DEFAULT = PRESETS["default"]
# How long the work took does not matter here.
_SHORT = replace(
    _DEFAULT, intervals=2, attacked=1, refiner=replace(_DEFAULT.refiner, steps=1, patience=1)
)


def register(kinds: Any) -> None:
    """Add `photo` to the `bench` parser."""
    parser = kinds.add_parser(
        "photo", help="time and peak memory of report and paste-back, by size of photo and face"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes above the loaded models and the photo itself."""

    seconds: float
    peak_bytes: int


def run(args: argparse.Namespace) -> int:
    """Handle `bench photo`: each size in a process of its own, so that peaks do not mix."""
    spawn = multiprocessing.get_context("spawn")
    table: dict[str, dict[str, float]] = {}
    if not args.json:
        print("report and paste-back, above the loaded models and the photo", flush=True)
    for face, megapixels in itertools.product(FACES, MEGAPIXELS):
        if min(_sides(megapixels)) < face:
            continue
        with spawn.Pool(1) as process:
            cost = process.apply(measure, (megapixels, face))
        name = f"{megapixels} MP, face in {face} px"
        table[name] = cost.__dict__
        if not args.json:
            told = f"{cost.seconds:6.2f} s   {cost.peak_bytes / 2**20:7.0f} MiB"
            print(f"  {name:<24} {told}", flush=True)
    if args.json:
        print(json.dumps({"report_and_paste": table}))
    return 0


def measure(megapixels: int, face: int) -> Cost:
    """Paste a result back into a photo and report on it, as `protect` does."""
    from ..evaluate.memory import new_peak
    from ..mini.models import miniature, use_one_thread

    use_one_thread()
    models, photo = miniature(), photo_of(megapixels, face)
    find_faces = models.find_faces
    left, top = _place(megapixels, face)
    known = find_faces(photo[0, :, top : top + face, left : left + face])
    faces = [found.moved(-left, -top) for found in known]

    def find(image: Tensor) -> list[Face]:
        """What finding a small face in the whole photo costs is the detector's, and is not counted here."""
        return faces if image.shape[-2:] == photo.shape[-2:] else find_faces(image)

    models = replace(models, find_faces=find)
    made = protect_photo(models, photo, Wishes(_PROMPT, preset=_SHORT), measuring=None)
    before, started = new_peak(), time.perf_counter()
    again = pasted(faces, made.crop, made.job, made.outcome)
    result = measured(models, again, Measuring())
    if result.report is None:
        raise FluxGuardError(f"The photo could not be measured: {result.unmeasured}")
    return Cost(time.perf_counter() - started, max(0, peak_memory() - before))


def photo_of(megapixels: int, face: int) -> Tensor:
    """A grey photo [1, 3, H, W] in 4:3 with a drawn portrait of ``face`` pixels in it."""
    from ..mini.portrait_spec import identity, random_spec
    from ..mini.renderer import render

    height, width = _sides(megapixels)
    photo = torch.full((1, 3, height, width), 0.5)
    drawn = render(random_spec(1, identity(1)), min(face, 512)).image[None]
    left, top = _place(megapixels, face)
    size = (face, face)
    photo[..., top : top + face, left : left + face] = F.interpolate(drawn, size, mode="bicubic")
    return photo.clamp(0, 1)


def _sides(megapixels: int) -> tuple[int, int]:
    """Height and width in 4:3."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    return height, height * 4 // 3


def _place(megapixels: int, face: int) -> tuple[int, int]:
    """Left and top edge of the portrait: in the middle."""
    height, width = _sides(megapixels)
    return (width - face) // 2, (height - face) // 2
