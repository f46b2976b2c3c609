"""Everything that `fluxguard protect` will do, known and checked before the first network runs."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ..backends.geometry import FLUX
from ..errors import FluxGuardError
from ..faces.face import FaceChoice
from ..pictures.files import check_mask_size, read_mask, read_picture
from ..pictures.folder import Photos, photos_in
from ..pictures.opening import look_at
from ..protect.presets import PhotoPreset, Preset, photo_preset_named, preset_named
from ..recognition.identity import Identity, photo, synthetic, untargeted
from .command_line import TERMINAL
from .cost import tell_cost, tell_photo_cost
from .finding import check_finding, parse_face
from .names import Targets, check_place, folder_targets, shown, single_target
from .results import Made, is_foreign, is_made, settings_digest
from .sources import check_weights, is_miniature, is_unedited, named_files

_SPARE = 2**20  # bytes for reports


@dataclass(frozen=True)
class Item:
    """One photo, where its results go, and what they are made from.

    Args:
        size: height and width where the file's header tells.
        done: the results are there already.
        trouble: what keeps it from being worked on, as far as its header tells; none where it is empty.
    """

    photo: Path
    targets: Targets
    made: Made
    size: tuple[int, int] | None
    done: bool
    trouble: str = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """The whole job.

    Args:
        passed_over: a line for each entry of the folder that is not worked on.
        left_alone: how many of these were asked for and may show people.
        second: another photo of the person [1, 3, H, W].
    """

    items: tuple[Item, ...]
    passed_over: tuple[str, ...]
    left_alone: int
    preset: Preset | PhotoPreset
    face: FaceChoice
    identity: Identity
    second: Tensor | None

    @property
    def to_do(self) -> tuple[Item, ...]:
        """What is not done yet and can be worked on."""
        return tuple(item for item in self.items if not item.done and not item.trouble)


def make_plan(args: argparse.Namespace) -> Plan:
    """The plan of a command; FluxGuardError where something would stop it later."""
    unedited = is_unedited(args)
    if not unedited:
        _check_words(args)
    preset = chosen_photo_preset(args) if unedited else chosen_preset(args)
    face = parse_face(args.face)
    read = [Path(p) for p in (args.mask, args.second) if p is not None]
    files = [*read, *_identity_file(args.identity), *named_files(args)]
    for file in files:
        if not file.exists():
            raise FluxGuardError(f"There is no file {shown(file)}.", "Check its name and folder.")
    check_weights(args)
    usual = None if is_miniature(args) or args.points else "yunet"
    check_finding(args.detector or usual, args.points)
    photos, targets, passed = inputs_of(args, files)
    place = check_place(
        targets[0].protected.parent if len(photos) == 1 else Path(args.output), targets
    )
    digest = settings_digest(args, preset, files)
    items = tuple(
        item_of(path, target, digest, again=args.again, html=args.html)
        for path, target in zip(photos, targets, strict=True)
    )
    items = with_mask(args, items)
    check_disk(place, items)
    return Plan(
        items=items,
        passed_over=tuple(TERMINAL(line) for line in passed.told()) if passed else (),
        left_alone=passed.missed if passed else 0,
        preset=preset,
        face=face,
        identity=parse_identity(args.identity),
        second=None if args.second is None else read_picture(args.second).rgb,
    )


def tell_plan(args: argparse.Namespace, plan: Plan) -> None:
    """Print what is taken and passed over, where the results go, and what it costs."""
    tell_items(plan.items)
    tell_passed_over(plan)
    first = next((item.size for item in plan.to_do if item.size is not None), None)
    if isinstance(plan.preset, Preset):
        tell_cost(args, plan.preset, first, len(plan.to_do))
    else:
        tell_photo_cost(args, plan.preset, len(plan.to_do))


def tell_items(items: Iterable[Item]) -> None:
    """Print a line for each photo: where its result goes, that it is done, or what is in the way."""
    for item in items:
        told = "done already" if item.done else f"-> {shown(item.targets.protected)}"
        print(f"{shown(item.photo)}  {item.trouble or told}")


def called(args: argparse.Namespace, item: Item) -> str:
    """A photo as the user knows it: its name, within the folder that was given."""
    given = Path(args.photo)
    inside = item.photo.is_relative_to(given) and item.photo != given
    return shown(item.photo.relative_to(given) if inside else item.photo.name)


def tell_troubles(args: argparse.Namespace, items: Iterable[Item]) -> int:
    """Say what cannot be worked on and why; how many."""
    troubled = [item for item in items if item.trouble]
    for item in troubled:
        print(f"{called(args, item)}: {item.trouble}", file=sys.stderr)
    return len(troubled)


class PassesOver(Protocol):
    """A plan for a folder."""

    @property
    def passed_over(self) -> tuple[str, ...]: ...


def tell_passed_over(plan: PassesOver) -> None:
    """Print a line for each entry that is not worked on."""
    for line in plan.passed_over:
        print(f"passed over: {shown(line)}")


def chosen_preset(args: argparse.Namespace) -> Preset:
    """The preset with the numbers that were given instead of its own."""
    preset = preset_named(args.preset)
    for name in ("intervals", "attack_last", "optimiser_steps"):
        given = getattr(args, name)
        if given is not None:
            _check_count(name, given)
    refiner = replace(preset.refiner, steps=args.optimiser_steps or preset.refiner.steps)
    preset = replace(
        preset,
        intervals=args.intervals or preset.intervals,
        attacked=args.attack_last or preset.attacked,
        far=args.far,
        refiner=refiner,
    )
    if preset.intervals <= preset.attacked:
        raise FluxGuardError(
            f"Expected more than {preset.attacked} ‹give intervals›, of which that many are attacked, got "
            f"{preset.intervals}."
        )
    return preset


def chosen_photo_preset(args: argparse.Namespace) -> PhotoPreset:
    """The preset of a protection without an edit, with the steps that were given instead of its own."""
    preset = photo_preset_named(args.preset)
    if args.likeness is not None:
        preset = replace(preset, budget=photo_preset_named(args.likeness).budget)
    if args.optimiser_steps is None:
        return preset
    _check_count("optimiser_steps", args.optimiser_steps)
    return replace(preset, steps=args.optimiser_steps)


def _check_count(name: str, given: int) -> None:
    if given < 1:
        raise FluxGuardError(f"Expected ‹give {name}› from 1 up, got {given}.")


def parse_identity(text: str) -> Identity:
    """``untargeted``, ``synthetic:SEED`` or ``photo:FILE``."""
    kind, _, rest = text.partition(":")
    if kind == "untargeted" and not rest:
        return untargeted()
    if kind == "synthetic" and (not rest or (rest.isascii() and rest.isdigit())):
        return synthetic(int(rest or 0))
    if kind == "photo" and rest:
        return photo(read_picture(rest).rgb[0])
    raise FluxGuardError(
        f"Expected ‹give identity› untargeted, synthetic:SEED or photo:FILE, got '{text}'."
    )


def _identity_file(text: str) -> list[Path]:
    kind, _, rest = text.partition(":")
    return [Path(rest)] if kind == "photo" and rest else []


def _check_words(args: argparse.Namespace) -> None:
    if not args.prompt or not args.prompt.strip():
        raise FluxGuardError("Expected ‹give prompt› with what the edited picture shows, got none.")
    if args.size is not None and (args.size < 64 or args.size % FLUX.pixels_per_token):
        raise FluxGuardError(
            f"Expected ‹give size› as a multiple of {FLUX.pixels_per_token} from 64 up, got {args.size}."
        )
    if is_miniature(args):
        return
    if args.source_prompt is None:
        raise FluxGuardError(
            "This model needs ‹give source_prompt›: say what the photo shows, for the inversion follows it."
        )


def inputs_of(
    args: argparse.Namespace, files: Iterable[Path]
) -> tuple[tuple[Path, ...], tuple[Targets, ...], Photos | None]:
    """Photos, where their results go, and the folder that they are from."""
    source, output = Path(args.photo), Path(args.output)
    if not source.is_dir():
        read_picture(source)
        return (source,), (single_target(output, [source, *files]),), None
    if output.exists() and not output.is_dir():
        raise FluxGuardError(
            f"{shown(output)} is a file, and the results of a folder need a folder.",
            "Choose another ‹give output›.",
        )
    here, there = (Path(os.path.realpath(place)) for place in (source, output))
    if there == here or (args.recursive and here in there.parents):
        raise FluxGuardError(
            "The results would lie among the photos, and another run would take them for photos.",
            "Choose another ‹give output›.",
        )
    photos = photos_in(source, recursive=args.recursive)
    seen = [*photos.taken, *(entry.path for entry in photos.passed_over), *files]
    targets = folder_targets(photos.taken, source, output, seen)
    return photos.taken, targets, photos


def item_of(path: Path, targets: Targets, digest: str, *, again: bool, html: bool) -> Item:
    """A photo and its result; FluxGuardError where something else lies in the result's place."""
    made = Made.of(path, digest)
    if (foreign := is_foreign(targets)) is not None:
        raise FluxGuardError(
            f"{shown(foreign)} is there already and is no result of FluxGuard, so it is not replaced.",
            "Move it away, or choose another ‹give output›.",
        )
    size, trouble = None, ""
    try:
        size = look_at(path)
    except FluxGuardError as error:
        trouble = error.told(TERMINAL)
    done = not again and not trouble and is_made(targets, made, html=html)
    return Item(path, targets, made, size, done, trouble)


def with_mask(args: argparse.Namespace, items: tuple[Item, ...]) -> tuple[Item, ...]:
    """The photos, those in trouble that are not of the mask's size.

    Raises:
        FluxGuardError: the mask is no picture or empty, or it fits none of the photos.
    """
    given = getattr(args, "mask", None)  # not every command has one
    if given is None:
        return items
    mask = read_picture(given).size
    read_mask(given, mask)
    found, errors = [], []
    for item in items:
        try:
            check_mask_size(given, mask, item.size or mask)
            found.append(item)
        except FluxGuardError as error:
            errors.append(error)
            found.append(replace(item, trouble=item.trouble or error.told(TERMINAL), done=False))
    if errors and len(errors) == len(items):
        raise errors[0]
    return tuple(found)


def check_disk(place: Path, items: Iterable[Item]) -> None:
    """FluxGuardError where the results may not fit: a picture of noise compresses to nothing less than itself."""
    needed = sum(
        2 * 4 * item.size[0] * item.size[1] for item in items if item.size and not item.done
    )
    free = shutil.disk_usage(place).free
    if needed + _SPARE > free:
        raise FluxGuardError(
            f"The results may take {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free in {shown(place)}.",
            "Make room, or choose another ‹give output›.",
        )
