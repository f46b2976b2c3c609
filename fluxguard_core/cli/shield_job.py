"""What the three shield commands share: the plan, photos one after the other, results on disk as soon as they exist."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..errors import FluxGuardError, Interrupted
from ..evaluate.change import Change, change_of
from ..evaluate.quality import eight_bit
from ..faces.face import Face, FaceFinder, choose
from ..pictures.files import Picture, read_mask, read_picture
from ..protect.defended import Defended
from ..protect.engine import OnStep, Step
from ..weights import load_manifest
from ..weights.where import find
from .command_line import TERMINAL
from .finding import finder_for
from .names import check_place, shown
from .plan import (
    Item,
    check_disk,
    inputs_of,
    item_of,
    tell_items,
    tell_passed_over,
    tell_troubles,
    with_mask,
)
from .results import settings_digest, store
from .sources import named_files


@dataclass(frozen=True)
class Job:
    """What a command will do; ``passed_over`` has a line for each entry of the folder that is not worked on."""

    items: tuple[Item, ...]
    passed_over: tuple[str, ...]
    left_alone: int

    @property
    def to_do(self) -> tuple[Item, ...]:
        """What is not done yet and can be worked on."""
        return tuple(item for item in self.items if not item.done and not item.trouble)

    @property
    def troubled(self) -> tuple[Item, ...]:
        """What cannot be worked on."""
        return tuple(item for item in self.items if item.trouble)

    @property
    def exit_code(self) -> int:
        """0 where every photo is done or can be."""
        return 1 if self.left_alone or self.troubled else 0


def plan_job(args: argparse.Namespace, settings: Any, *, together: bool = False) -> Job:
    """Photos, targets and what is done already; FluxGuardError where something would stop it later.

    Args:
        settings: the shield; with the options it decides whether a result is still the same.
        together: all photos make one result, so a change of one makes all of them anew.
    """
    if args.budget is not None and not 1 <= args.budget <= 32:
        raise FluxGuardError(f"Expected ‹give budget› from 1 to 32 of 255, got {args.budget}.")
    return job_of(args, settings, named_files(args), together=together)


def job_of(
    args: argparse.Namespace, settings: Any, files: Sequence[Path], *, together: bool = False
) -> Job:
    """The same for any command that makes one picture of each; ``files`` are read beside the photos."""
    for file in files:
        if not file.exists():
            raise FluxGuardError(f"There is no file {shown(file)}.", "Check its name and folder.")
    photos, targets, passed = inputs_of(args, files)
    single = len(photos) == 1 and not Path(args.photo).is_dir()
    place = check_place(targets[0].protected.parent if single else Path(args.output), targets)
    digest = settings_digest(args, settings, [*files, *photos] if together else files)
    items = tuple(
        item_of(path, target, digest, again=args.again, html=False)
        for path, target in zip(photos, targets, strict=True)
    )
    items = with_mask(args, items)
    check_disk(place, items)
    lines = tuple(TERMINAL(line) for line in passed.told()) if passed else ()
    return Job(items, lines, passed.missed if passed else 0)


def tell_job(job: Job, lines: Sequence[str]) -> None:
    """Print what is taken and passed over, where the results go, and what it costs."""
    tell_items(job.items)
    tell_passed_over(job)
    for line in lines:
        print(line)


def tell_done(args: argparse.Namespace, job: Job) -> None:
    """Print what needs no work, and what cannot be worked on."""
    tell_passed_over(job)
    tell_troubles(args, job.items)
    for item in job.items:
        if item.done:
            print(f"{shown(item.targets.protected)}: done already (redo it with --again)")


def each(job: Job, work: Callable[[Item], bool], done: str = "shielded") -> int:
    """Work on every photo that is not done; an exit code. ``work`` says whether the user stopped it.

    Args:
        done: what became of a photo, for the summary.
    """
    failed = 0
    for item in job.to_do:
        try:
            if work(item):
                return 130
        except Interrupted:
            raise
        except Exception as error:  # whatever it is, the other pictures have their turn
            if len(job.items) == 1 and isinstance(error, FluxGuardError):
                raise
            failed += 1
            print(f"{shown(item.photo.name)}: {told_error(error, done)}", file=sys.stderr)
    return ended(job, failed, done)


def ended(job: Job, failed: int = 0, done: str = "shielded") -> int:
    """Say how it went; 1 where some photos stay as they were."""
    before = sum(item.done for item in job.items)
    parts = [f"{len(job.to_do) - failed} {done}"]
    failed += len(job.troubled)
    parts += [f"{before} done already"] if before else []
    parts += [f"{len(job.passed_over)} passed over"] if job.passed_over else []
    parts += [f"{failed} of {len(job.items)} could not be {done}"] if failed else []
    if len(job.items) > 1 or failed:
        print(", ".join(parts) + ".", file=sys.stderr if failed else sys.stdout)
    return 1 if failed else job.exit_code


def told_error(error: Exception, done: str = "shielded") -> str:
    """An error of one photo in words."""
    if isinstance(error, FluxGuardError):
        return error.told(TERMINAL)
    if isinstance(error, MemoryError) or "alloc" in str(error):
        return "there is not enough memory. Take the preset fast or light, or a smaller photo."
    return f"it could not be {done} ({type(error).__name__}: {error})."


def read_photo(path: Path, args: argparse.Namespace) -> tuple[Picture, Tensor | None]:
    """A photo on the grid of 1/255, as it will be stored, and the mask."""
    picture = read_picture(path)
    given = getattr(args, "mask", None)
    mask = None if given is None else read_mask(given, picture.size)
    return replace(picture, rgb=eight_bit(picture.rgb)), mask


def faces_in(picture: Tensor, path: Path, args: argparse.Namespace, *, drawn: bool) -> list[Face]:
    """The faces with points that a detector finds; none where no detector is at hand and none was asked for."""
    chosen = args.detector or ("miniature" if drawn else "yunet")
    at_hand = args.points is not None or args.detector is not None or drawn
    if not at_hand and find(load_manifest()["yunet"]) is None:
        return []
    finder: FaceFinder | None = finder_for(args.points, chosen, "drawn" if drawn else "photo")(path)
    found = [] if finder is None else finder(picture[0])
    return [face for face in found if face.landmarks is not None]


def measured(before: Tensor, after: Tensor, faces: list[Face]) -> Change:
    """The change, over the largest face where there is one."""
    points = choose(faces, "largest")[0].landmarks if faces else None
    return change_of(before, after, points)


def write_result(
    item: Item, picture: Picture, done: Defended, change: Change, numbers: dict[str, Any]
) -> None:
    """Write a shielded photo and its numbers, and say how it went in a line."""
    figures = {} if done.settled is None else {n: dict(v) for n, v in done.settled.figures.items()}
    known = {**numbers, "change": change.to_dict(), "after_rounding": figures}
    store(item.targets, picture, item.made, done.picture.cpu(), known, stopped=done.interrupted)
    stopped = "stopped early, " if done.interrupted else ""
    print(f"{shown(item.targets.protected)}: {stopped}{change.told()}")


@contextmanager
def bar(total: int, name: str, stop: Callable[[], bool], *, quiet: bool) -> Iterator[OnStep]:
    """A progress bar that raises ``Interrupted`` once ``stop`` says so."""
    drawn = tqdm(total=total, desc=name, disable=quiet, dynamic_ncols=True, leave=False)

    def told(step: Step, seen: Tensor) -> None:
        del step, seen
        drawn.update()
        if stop():
            raise Interrupted("Stopped by the user.")

    try:
        yield told
    finally:
        drawn.close()
