"""`fluxguard demo`: the whole method on a portrait that no network has seen, in under a minute."""

from __future__ import annotations

import argparse
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.html import write_html
from ..faces.face import Face, choose
from ..pictures.face_crop import FaceCrop, crop_face
from ..pictures.files import read_picture, write_png
from ..pipelines.photo import Job, Models, mask_from_words, protect_portrait, seeded
from ..pipelines.report import Finals, make_report
from ..protect.presets import PRESETS, preset_named
from .progress import progress_bars, stopping
from .protect import parse_identity

if TYPE_CHECKING:
    from ..mini.portrait_spec import Attributes, PortraitSpec

PROMPT = "a person wearing red lipstick and eyeglasses"
# Far from every seed that the training and the settings were drawn from.
_UNSEEN = 9_000_000


def register(subparsers: Any) -> None:
    """Add the `demo` command to the `fluxguard` parser."""
    parser = subparsers.add_parser("demo", help="edit and protect a drawn portrait, with a report")
    parser.add_argument("--prompt", default=PROMPT, help=f"the edit in words (default: '{PROMPT}')")
    parser.add_argument("--photo", metavar="FILE", help="a portrait made by the renderer")
    parser.add_argument("--seed", type=int, help="of the portrait (default: a new one each time)")
    parser.add_argument(
        "--identity", default="untargeted", help="untargeted, synthetic:SEED, photo:FILE"
    )
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("-o", "--output", default="out/demo", metavar="DIR")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Handle the command; returns the exit code."""
    from ..mini.models import miniature, use_one_thread

    started = time.perf_counter()
    seed = secrets.randbelow(100_000) if args.seed is None else args.seed
    use_one_thread()
    models = miniature()
    scene = _given(args.photo) if args.photo else _drawn(args.prompt, seed)
    source = scene.photo
    face = choose(models.find_faces(source[0]), "largest")[0]
    crop = crop_face(source, face, models.size)
    job = _job(args, models, scene, face, crop, seed)
    print(f"portrait  {job.source_prompt}\nedit      {job.prompt}")
    prepared = time.perf_counter()
    with stopping() as stop, progress_bars(stop, quiet=args.quiet) as observer:
        outcome = protect_portrait(models, job, observer=observer)
    edited, protected = (
        result.cpu() if crop is None else crop.paste(result.cpu())
        for result in (outcome.edited, outcome.protected)
    )
    finals = Finals(source, edited, protected, face)
    report, pictures = make_report(
        models,
        job,
        outcome,
        finals,
        seconds={"loading": prepared - started, "run": time.perf_counter() - prepared},
        settings={"seed": seed, "working_size": list(job.picture.shape[-2:])},
        second=scene.second,
        notes=(scene.note,),
    )
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_png(folder / "source.png", source)
    write_png(folder / "edited.png", edited)
    write_png(folder / "protected.png", protected)
    report.write_json(folder / "report.json")
    write_html(folder / "report.html", report, pictures)
    print(f"\n{report.verdict.headline}\nreport    {(folder / 'report.html').resolve()}")
    return 130 if outcome.interrupted else 0


@dataclass(frozen=True, eq=False)
class _Scene:
    """What the demo works on.

    Args:
        photo: [1, 3, H, W] in [0, 1].
        caption: what it shows; None where somebody has to look first.
        second: another picture of the same person, where there is one.
        note: where the portrait comes from, for the report.
    """

    photo: Tensor
    caption: str | None
    second: Tensor | None
    note: str


def _given(path: str) -> _Scene:
    return _Scene(read_picture(path).rgb, None, None, "The portrait is the file that was given.")


def _drawn(prompt: str, seed: int) -> _Scene:
    from ..mini.renderer import render

    first, other = portraits_before(prompt, seed)
    drawn = render(first)
    note = f"A drawn portrait of nobody (seed {seed}); the second photo is another drawing of the same face."
    return _Scene(drawn.image[None], drawn.caption, render(other).image[None], note)


def portraits_before(prompt: str, seed: int) -> tuple[PortraitSpec, PortraitSpec]:
    """The portrait of a seed, without what the prompt asks for; and another one of the same person.

    Raises FluxGuardError where the prompt asks for nothing.
    """
    from ..mini.captions import parse_caption
    from ..mini.portrait_spec import identity, random_spec

    asked = parse_caption(prompt)
    if not asked:
        raise FluxGuardError(f"Expected a prompt that says what to change, got '{prompt}'.")
    person = identity(_UNSEEN + seed)
    first = random_spec(_UNSEEN + 2 * seed, person)
    before = _attributes_before(first.attributes, asked, seed)
    return replace(first, attributes=before), random_spec(_UNSEEN + 2 * seed + 1, person)


def _attributes_before(drawn: Attributes, asked: dict[str, str], seed: int) -> Attributes:
    """Every attribute that is asked for gets another value: absent where it can be, else by the seed."""
    import numpy as np

    from ..mini.portrait_spec import CHOICES

    rng = np.random.default_rng([_UNSEEN, seed])
    before: dict[str, str] = {}
    for name, value in asked.items():
        others = [v for v in CHOICES[name] if v not in (value, "bald")]
        absent = [v for v in others if v in ("no", "none")]
        before[name] = absent[0] if absent else others[int(rng.integers(len(others)))]
    if {"hair_style", "hair_colour"} & set(asked):
        # Hair has to be seen before it can be edited.
        before.setdefault("hat", "none")
        if drawn.hair_style == "bald":
            before.setdefault("hair_style", "short")
    return replace(drawn, **before)


def _job(
    args: argparse.Namespace,
    models: Models,
    scene: _Scene,
    face: Face,
    crop: FaceCrop | None,
    seed: int,
) -> Job:
    working = scene.photo if crop is None else crop.working
    if models.describe is None or models.complete is None:
        raise AssertionError("the miniature describes and completes")
    source_prompt = scene.caption or models.describe(working)
    prompt = models.complete(source_prompt, args.prompt)
    if prompt == source_prompt:
        raise FluxGuardError(
            f"The photo already shows '{args.prompt}' ({source_prompt}). Ask for something else with --prompt."
        )
    return Job(
        picture=working,
        source_prompt=source_prompt,
        prompt=prompt,
        mask=mask_from_words(models, working, source_prompt, prompt),
        face=face if crop is None else crop.face(face),
        identity=parse_identity(args.identity),
        preset=seeded(preset_named(args.preset), seed),
    )
