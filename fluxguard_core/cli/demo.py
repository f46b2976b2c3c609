"""`fluxguard demo`: the whole method on a portrait that no network has seen, in under a minute."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.html import write_html
from ..pictures.files import read_picture, write_png
from ..pipelines.photo import Measuring, Protected, Wishes, protect_photo
from ..protect.presets import PRESETS, preset_named
from .names import check_not_read, check_writable, shown
from .plan import parse_identity
from .progress import progress_bars, stopping

if TYPE_CHECKING:
    from ..mini.portrait_spec import Attributes, PortraitSpec

# By default an edit that leaves the person plainly the same, so that there is somebody to protect.
PROMPT = "a person wearing red lipstick and blue eyeshadow"
SEED = 1
# Far from every seed that the training and the settings were drawn from.
_UNSEEN = 9_000_000
_FILES = ("source.png", "protected.png", "edited.png", "report.json", "report.html")


def register(subparsers: Any) -> None:
    """Add the `demo` command to the `fluxguard` parser."""
    parser = subparsers.add_parser("demo", help="edit and protect a drawn portrait, with a report")
    parser.add_argument("--prompt", default=PROMPT, help=f"the edit in words (default: '{PROMPT}')")
    parser.add_argument("--photo", metavar="FILE", help="a portrait made by the renderer")
    parser.add_argument(
        "--seed",
        type=int,
        default=SEED,
        help=f"of the portrait and of all that is drawn (default: {SEED})",
    )
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
    folder = Path(args.output)
    files = [folder / name for name in _FILES]
    check_not_read(files, [Path(args.photo)] if args.photo else [])
    check_writable(files)
    seed: int = args.seed
    use_one_thread()
    models = miniature()
    scene = _given(args.photo) if args.photo else _drawn(args.prompt, seed)
    wishes = Wishes(
        prompt=args.prompt,
        source_prompt=scene.caption,
        identity=parse_identity(args.identity),
        preset=preset_named(args.preset),
        seed=seed,
    )
    loaded = time.perf_counter() - started

    def keep(made: Protected) -> None:
        print(f"portrait  {made.job.source_prompt}\nedit      {made.job.prompt}")
        write_png(folder / "source.png", made.photo)
        write_png(folder / "protected.png", made.protected)
        write_png(folder / "edited.png", made.edited)

    with stopping() as stop, progress_bars(stop, quiet=args.quiet) as observer:
        result = protect_photo(
            models,
            scene.photo,
            wishes,
            measuring=Measuring(scene.second, {"seed": seed}, (scene.note,)),
            observer=observer,
            ready=keep,
        )
    if result.report is None or result.pictures is None:
        raise FluxGuardError(
            f"The pictures are made, but could not be measured: {result.unmeasured}"
        )
    report = replace(result.report, seconds={"loading": loaded, **result.seconds})
    report.write_json(folder / "report.json")
    write_html(folder / "report.html", report, result.pictures)
    print(f"\n{report.verdict.headline}\nreport    {shown((folder / 'report.html').resolve())}")
    return 130 if result.outcome.interrupted else 0


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
