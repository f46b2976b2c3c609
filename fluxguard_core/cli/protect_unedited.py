"""`fluxguard protect PHOTO` without words and without FLUX: photos are protected as they are."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import FluxGuardError
from ..faces.face import Face, FaceFinder
from ..mini.world_gate import check_world
from ..pictures.files import read_mask, read_picture
from ..pipelines.photo import Measuring
from ..pipelines.unedited import AsItIs, Judges, Kept, protect_as_it_is
from ..protect.presets import PhotoPreset
from ..recognition.ensemble import Ensemble
from ..weights import find, load_manifest
from . import sources
from .finding import finder_for
from .known_faces import usual_detector
from .names import shown
from .plan import Item, Plan
from .progress import progress_bars
from .results import finish, keep_photo, sweep
from .world_gate import WAYS

_OF_EDITS = ("source_prompt", "intervals", "attack_last", "size", "vgg", "lpips", "tiny_vae")
GET_RECOGNISERS = (
    "‹run models download auraface sface yunet› fetches two recognisers (261 and 39 MB, Apache-2.0) and a small "
    "detector (MIT)"
)


def settle(args: argparse.Namespace) -> None:
    """Check what the arguments say, and choose recognisers out of those on this machine where none is named.

    Raises:
        FluxGuardError: there are none, or an argument belongs to edits.
    """
    foreign = [name for name in _OF_EDITS if getattr(args, name) is not None]
    foreign += ["identity"] if args.identity != "untargeted" else []
    if foreign:
        raise FluxGuardError(
            f"‹give {foreign[0]}› belongs to an edit, and no words were given.",
            "Say with ‹give prompt› what the edited picture shows, or leave it out.",
        )
    if args.recogniser:
        return
    here = [e.id for e in load_manifest().entries if _is_ready(e)]
    if not here:
        raise FluxGuardError(
            "Neither words nor recognisers were given. Without words (‹give prompt›) a photo is protected as it is, "
            "and that needs recognisers which know photos.",
            f"{GET_RECOGNISERS}; then the same command works.",
        )
    judges = [] if args.hold_out or len(here) == 1 else here[-1:]
    args.recogniser = [name for name in here if name not in (*judges, *args.hold_out)]
    args.hold_out = [*args.hold_out, *judges]
    told = f"; {', '.join(args.hold_out)} only judges" if args.hold_out else ""
    print(f"recognisers on this machine: {', '.join(args.recogniser)} attacked{told}")


def _is_ready(entry: Any) -> bool:
    """A recogniser of photos whose file is here."""
    return entry.role == "recogniser" and entry.source != "package" and find(entry) is not None


def worker(args: argparse.Namespace, plan: Plan) -> Callable[[Item, str, Callable[[], bool]], Kept]:
    """What protects one photo of the plan, its pictures on disk before anything is measured.

    Called with the item, its name for messages, and what says to stop.
    """
    device = args.device or sources.best_device()
    attacked, held_out = sources.recognisers(args.recogniser, args.hold_out, device)
    ensemble = Ensemble(attacked, held_out)
    coder = None
    if args.autoencoder is not None:
        coder = sources.photo_autoencoder(args.autoencoder, device)
    find_in = _finder_for(args, ensemble)

    def work(item: Item, name: str, stop: Callable[[], bool]) -> Kept:
        judges = Judges(ensemble, find_in(item.photo), coder)
        return _protect(args, plan, item, name, judges, stop)

    return work


def _finder_for(args: argparse.Namespace, ensemble: Ensemble) -> Callable[[Path], FaceFinder]:
    world = ensemble.attacked[0].world
    detector = args.detector or ("" if args.points else usual_detector(world))
    find_in = finder_for(args.points, detector, world)

    def found(photo: Path) -> FaceFinder:
        finder = find_in(photo)
        return sources.required_finder(finder)

    return found


def _protect(
    args: argparse.Namespace,
    plan: Plan,
    item: Item,
    name: str,
    judges: Judges,
    stop: Callable[[], bool],
) -> Kept:
    assert isinstance(plan.preset, PhotoPreset)
    picture = read_picture(item.photo)
    wishes = AsItIs(
        preset=plan.preset,
        face=plan.face,
        mask=None if args.mask is None else read_mask(args.mask, picture.size),
        grey=picture.grey,
        seed=args.seed,
        far=args.far,
    )

    def admit(photo: Tensor, faces: Sequence[Face]) -> None:
        check_world(photo, name, judges.knowers, WAYS, faces)

    known: dict[str, Any] = {}
    sweep(item.targets)
    with progress_bars(stop, quiet=args.quiet) as observer:
        result = protect_as_it_is(
            judges,
            picture.rgb,
            wishes,
            measuring=Measuring(plan.second, {"seed": args.seed}, picture.notes),
            observer=observer,
            admit=admit,
            ready=lambda made: known.update(keep_photo(item.targets, picture, item.made, made)),
        )
    finish(item.targets, known, result, html=args.html)
    _tell(shown(item.targets.protected), result)
    return result


def _tell(name: str, result: Kept) -> None:
    """The verdict in words: recognisers first, then what friends see."""
    if result.report is None:
        print(f"{name}: protected, but not measured: {result.unmeasured}")
        return
    report = result.report
    print(f"{name}: {report.verdict.headline}")
    for row in report.recognisers:
        matches = row.matches(row.protected)
        word = {None: "threshold not known", True: "still matches", False: "no longer matches"}
        above = "" if row.threshold is None else f" (above {row.threshold:.2f})"
        print(f"  {row.name} ({row.role}): similarity {row.protected:.2f}, {word[matches]}{above}")
    for look in report.likeness:
        print(f"  likeness: {look.told()}")
    for note in report.notes:
        print(f"  {note}")
