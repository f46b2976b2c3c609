"""`fluxguard attributes PHOTO`: what a face reveals is changed, and whether it is still recognised is measured."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..defences.attgan_files import load_attgan
from ..defences.attribute_edit import AttributeEditor
from ..defences.attributes import MODES, Mode, check_names, parse_values
from ..errors import FluxGuardError
from ..faces.face import choose
from ..mini.world_check import world_of
from ..pictures.files import read_mask, read_picture
from ..pipelines.attribute_edits import change_attributes_in_words
from ..pipelines.attributes import (
    IDENTITIES,
    AttributeModels,
    AttributeWishes,
    Changed,
    Judge,
    change_attributes,
    judge_of,
)
from ..protect.presets import PHOTO_PRESETS, PRESETS
from ..recognition.ensemble import Ensemble
from ..worlds import World
from . import attributes_train, sources
from .finding import add_face, finder_for, parse_face
from .names import shown
from .plan import Item
from .progress import progress_bars, stopping
from .results import store
from .shield_job import Job, each, job_of, tell_done
from .world_gate import check_world

_DRAWN = "the shipped AttGAN"


def register(subparsers: Any) -> None:
    """Add the `attributes` command to the `fluxguard` parser."""
    parser = subparsers.add_parser(
        "attributes",
        help="change what a face reveals (hair, glasses, beard ...) while recognition goes on working",
        epilog="flip: into the opposite; set: as given; neutralise: half-way, so that a classifier has no answer; "
        "random: so many, drawn by the seed; auto: what a classifier is surest of first, as long as the recognisers "
        "still match. 'train' in the place of PHOTO trains an AttGAN on your own labelled pictures.",
    )
    parser.add_argument(
        "photo", metavar="PHOTO|train", help="a picture, a folder, or the word train"
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="OUT.png; a folder for a folder")
    parser.add_argument("--mode", choices=MODES, default="flip", help="default: flip")
    parser.add_argument(
        "--attribute", action="append", default=[], metavar="NAME", help="to flip or neutralise"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=yes|no", help="means the mode set"
    )
    parser.add_argument(
        "--count", type=int, default=2, metavar="K", help="of random and auto (default: 2)"
    )
    parser.add_argument(
        "--keep", action="append", default=[], metavar="NAME", help="random and auto leave it"
    )
    parser.add_argument("--identity", choices=IDENTITIES, default="keep", help="default: keep")
    parser.add_argument(
        "--least",
        type=float,
        default=1.0,
        metavar="S",
        help="strength at least (default: 1, as in training; 0: the smallest that turns the editor's classifier)",
    )
    parser.add_argument("--list", action="store_true", help="print the attributes and stop")
    parser.add_argument(
        "--words", action="store_true", help="edit with FLUX and words instead of AttGAN"
    )
    parser.add_argument("--source-prompt", help="with a FLUX of yours: what the photo shows")
    parser.add_argument("--mask", metavar="PNG", help="with words: white may change")
    parser.add_argument(
        "--recursive", action="store_true", help="take the photos of sub-folders, too"
    )
    parser.add_argument("--again", action="store_true", help="redo what is done already")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--preset",
        choices=list(dict.fromkeys([*PHOTO_PRESETS, *PRESETS])),
        default="default",
        help="of the protection, and of the edit in words",
    )
    gan = parser.add_argument_group("AttGAN (default: the shipped one, for drawn portraits)")
    gan.add_argument(
        "--attgan", metavar="FILE", help="a public checkpoint (G and D), or one trained here"
    )
    gan.add_argument(
        "--names", metavar="A,B,...", help="its attributes in their order (default: the file's)"
    )
    gan.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="FILE",
        help="another one, whose classifier judges",
    )
    gan.add_argument(
        "--reader",
        action="append",
        default=[],
        metavar="FILE",
        help="another one, whose classifier is asked during the search, beside the AttGAN's own",
    )
    add_face(parser)
    sources.add_arguments(parser)
    attributes_train.add_arguments(parser)
    parser.set_defaults(run=run)


@dataclass(frozen=True, eq=False)
class Loaded:
    """Networks of one world; `words` is the stack where the edit is one in words."""

    world: World
    models: AttributeModels | None
    judges: tuple[Judge, ...]
    ensemble: Ensemble | None
    words: Any = None


def run(args: argparse.Namespace) -> int:
    """Handle the command; returns the exit code."""
    if args.photo == "train":
        return attributes_train.run(args)
    loaded = _load(args)
    if args.list:
        names = loaded.models.editor.attributes if loaded.models else loaded.judges[0].names
        print("\n".join(names))
        return 0
    wishes = _wishes(args)
    _check(args, loaded, wishes)
    job = _planned(args)
    tell_done(args, job)
    with stopping() as stop:
        return each(job, lambda item: _one(args, loaded, wishes, item, stop), "changed")


def _one(
    args: argparse.Namespace, loaded: Loaded, wishes: AttributeWishes, item: Item, stop: Any
) -> bool:
    """Change one photo; False, for a stop leaves nothing that could be kept."""
    photo = item.photo
    picture = read_picture(photo)
    _same_world(picture.rgb, shown(photo.name), loaded)
    if loaded.words is not None:
        mask = None if args.mask is None else read_mask(args.mask, picture.size)
        with progress_bars(stop, quiet=args.quiet) as observer:
            changed = change_attributes_in_words(
                loaded.words,
                picture.rgb,
                wishes,
                loaded.judges,
                source_prompt=args.source_prompt,
                mask=mask,
                observer=observer,
            )
    else:
        assert loaded.models is not None
        kind = args.detector or ("miniature" if loaded.world == "drawn" else "yunet")
        finder = finder_for(args.points, kind, loaded.world)(photo)
        faces = [] if finder is None else choose(finder(picture.rgb[0]), parse_face(args.face))
        if len(faces) != 1 or faces[0].landmarks is None:
            raise FluxGuardError(
                "One face is changed at a time, and its five points must be known.",
                "Choose a face with ‹give face› and a detector that finds points, such as yunet.",
            )
        changed = change_attributes(loaded.models, picture.rgb, faces[0].landmarks, wishes)
    numbers = changed.report.to_dict()
    if numbers["psnr"] == float("inf"):
        numbers["psnr"] = None
    store(item.targets, picture, item.made, changed.picture, numbers, stopped=False)
    print(f"{shown(item.targets.protected)}: {', '.join(_told(changed))}")
    for line in changed.report.told():
        print(f"  {line}")
    return False


def _told(changed: Changed) -> list[str]:
    words = {0.0: "off", 1.0: "on", 0.5: "left open"}
    return [f"{name} {words[value]}" for name, value in changed.wanted.targets.items()]


def _planned(args: argparse.Namespace) -> Job:
    """Photos and where their results go, checked before the first network runs."""
    if args.output is None:
        raise FluxGuardError("Expected ‹give output› with the place for the result.")
    networks = [Path(p) for p in (args.attgan, *args.judge, *args.reader) if p]
    return job_of(args, None, [*sources.named_files(args), *networks])


def _wishes(args: argparse.Namespace) -> AttributeWishes:
    mode: Mode = args.mode
    if args.set:
        mode = "set"
    if mode in ("flip", "neutralise") and not args.attribute:
        raise FluxGuardError(
            f"The mode {mode} needs ‹give attribute› NAME, which may be repeated.",
            "‹give list› prints the names.",
        )
    if mode == "set" and not args.set:
        raise FluxGuardError("The mode set needs NAME=yes or NAME=no with ‹give set›.")
    return AttributeWishes(
        mode=mode,
        names=tuple(args.attribute),
        values=parse_values(args.set),
        count=args.count,
        keep=tuple(args.keep),
        identity=args.identity,
        least=args.least,
        preset=args.preset,
        seed=args.seed,
    )


def _check(args: argparse.Namespace, loaded: Loaded, wishes: AttributeWishes) -> None:
    """What would stop it later, told now."""
    known: tuple[str, ...] = ()
    if loaded.models is not None:
        known = loaded.models.editor.attributes
    elif loaded.judges:
        known = loaded.judges[0].names
    if known:
        check_names((*wishes.names, *wishes.values, *wishes.keep), known)
    if loaded.words is None and wishes.identity == "protect" and wishes.preset not in PHOTO_PRESETS:
        raise FluxGuardError(
            f"Expected a preset for photos ({', '.join(PHOTO_PRESETS)}), got '{wishes.preset}'."
        )
    if loaded.words is not None and wishes.preset not in PRESETS:
        raise FluxGuardError(
            f"Expected a preset for edits ({', '.join(PRESETS)}), got '{wishes.preset}'."
        )


def _load(args: argparse.Namespace) -> Loaded:
    names = tuple(args.names.split(",")) if args.names else None
    judges = tuple(_judge(path, names) for path in args.judge)
    drawn = args.attgan is None and sources.is_miniature(args)
    if args.words:
        stack = sources.load_models(args)
        if stack.stack.world == "drawn":
            from ..mini.attributes import drawn_judge

            judges = (drawn_judge(), *judges)
        return Loaded(stack.stack.world, None, judges, stack.ensemble, stack)
    if drawn:
        from ..mini.attributes import drawn_models
        from ..mini.models import use_one_thread

        use_one_thread()
        models = drawn_models(_ensemble(args))
        models = replace(models, judges=(*models.judges, *judges))
        return Loaded("drawn", models, models.judges, models.ensemble)
    if args.attgan is None:
        raise FluxGuardError(
            "A FLUX edits attributes in words.",
            "Give ‹give words›, or an AttGAN with ‹give attgan› FILE.",
        )
    gan = load_attgan(args.attgan, attributes=names)
    editor = AttributeEditor.of(Path(args.attgan).name, gan)
    parser = sources.face_parser() if gan.world == "photo" else None
    readers = tuple(_judge(path, names) for path in args.reader)
    models = AttributeModels(editor, judges, _ensemble(args), parser, readers)
    return Loaded(gan.world, models, judges, models.ensemble)


def _ensemble(args: argparse.Namespace) -> Ensemble | None:
    if not args.recogniser:
        return None
    attacked, held_out = sources.recognisers(args.recogniser, args.hold_out)
    for encoder in attacked:
        encoder.threshold()
    return Ensemble(attacked, held_out)


def _judge(path: str, names: tuple[str, ...] | None) -> Judge:
    gan = load_attgan(path, attributes=names)
    editor = AttributeEditor.of(Path(path).name, gan)
    return judge_of(editor.name, editor, editor.classify)


def _same_world(picture: Tensor, name: str, loaded: Loaded) -> None:
    """Networks that know drawings only never edit or judge a photo, and the other way round."""
    members = loaded.ensemble.members if loaded.ensemble is not None else ()
    if world_of(picture) != loaded.world or any(e.world != loaded.world for e in members):
        check_world(picture, name, members, loaded.world)
