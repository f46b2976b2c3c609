"""`fluxguard demo`: the whole method on a portrait that no network has seen, in under a minute."""

from __future__ import annotations

import argparse
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..evaluate.html import write_html
from ..imageio import read_picture, write_png
from ..portrait import Job, Models, mask_from_words, protect_portrait, seeded
from ..protect.presets import PRESETS, preset_named
from ..recognition.faces import choose
from ..reporting import Finals, make_report
from .progress import progress_bars, stopping
from .protect import parse_identity

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
    from ..mini.models import miniature

    started = time.perf_counter()
    seed = secrets.randbelow(100_000) if args.seed is None else args.seed
    models = miniature()
    source, second, note = _portraits(args, seed)
    job = _job(args, models, source, seed)
    print(f"portrait  {job.source_prompt}\nedit      {job.prompt}")
    prepared = time.perf_counter()
    with stopping() as stop, progress_bars(stop, quiet=args.quiet) as observer:
        outcome = protect_portrait(models, job, observer=observer)
    finals = Finals(source, outcome.edited, outcome.protected, job.face)
    report, pictures = make_report(
        models,
        job,
        outcome,
        finals,
        seconds={"loading": prepared - started, "run": time.perf_counter() - prepared},
        settings={"seed": seed},
        second=second,
        notes=(note,),
    )
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_png(folder / "source.png", source)
    write_png(folder / "edited.png", outcome.edited)
    write_png(folder / "protected.png", outcome.protected)
    report.write_json(folder / "report.json")
    write_html(folder / "report.html", report, pictures)
    print(f"\n{report.verdict.headline}\nreport    {(folder / 'report.html').resolve()}")
    return 130 if outcome.interrupted else 0


def _portraits(args: argparse.Namespace, seed: int) -> tuple[Tensor, Tensor | None, str]:
    """The portrait, another picture of the same person where there is one, and where they come from."""
    if args.photo:
        return read_picture(args.photo).rgb, None, "The portrait is the file that was given."
    from ..mini.portrait_spec import identity, random_spec
    from ..mini.renderer import render

    person = identity(_UNSEEN + seed)
    first = random_spec(_UNSEEN + 2 * seed, person)
    plain = replace(first.attributes, lipstick="none", eyeglasses="no")
    first = replace(first, attributes=plain) if args.prompt == PROMPT else first
    other = random_spec(_UNSEEN + 2 * seed + 1, person)
    note = f"A drawn portrait of nobody (seed {seed}); the second photo is another drawing of the same face."
    return render(first).image[None], render(other).image[None], note


def _job(args: argparse.Namespace, models: Models, source: Tensor, seed: int) -> Job:
    face = choose(models.find_faces(source[0]), "largest")[0]
    if models.describe is None or models.complete is None:
        raise AssertionError("the miniature describes and completes")
    source_prompt = models.describe(source)
    prompt = models.complete(source_prompt, args.prompt)
    return Job(
        picture=source,
        source_prompt=source_prompt,
        prompt=prompt,
        mask=mask_from_words(models, source, source_prompt, prompt),
        face=face,
        identity=parse_identity(args.identity),
        preset=seeded(preset_named(args.preset), seed),
    )
