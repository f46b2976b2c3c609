"""What a measurement is about: portraits, a gallery, recognisers in turns, and treatments of the portraits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ...errors import FluxGuardError
from ...faces.alignment import align
from ...recognition.encoder import FaceEncoder
from ...recognition.ensemble import Ensemble
from ..models import Models

Turns = Literal["all", "rotate"]


@dataclass(frozen=True, eq=False)
class Subject:
    """One portrait to treat.

    Args:
        name: of the portrait, unique; person: whom it shows.
        photo: [1, 3, H, W] in [0, 1]; points: five of the face [5, 2] in its pixels.
        source_prompt, prompt: what it shows, and shall show; both empty where nothing is edited.
    """

    name: str
    person: str
    photo: Tensor
    points: Tensor
    source_prompt: str = ""
    prompt: str = ""


@dataclass(frozen=True, eq=False)
class Target:
    """Whom a targeted treatment aims at: the photo that is aimed with, never one that judges."""

    person: str
    photo: Tensor


@dataclass(frozen=True, eq=False)
class Gallery:
    """Photos that a search looks through, none of them a portrait that is treated.

    Args:
        people: whom each of N photos shows.
        vectors: unit vectors [N, D] by recogniser.
        crops: the N faces [N, 3, S, S] as a recogniser sees them.
    """

    people: tuple[str, ...]
    vectors: Mapping[str, Tensor]
    crops: Callable[[FaceEncoder], Tensor]

    def of(self, person: str, judge: str) -> Tensor:
        """A person's unit vectors [n, D]; FluxGuardError where the gallery has none."""
        rows = [i for i, other in enumerate(self.people) if other == person]
        if not rows:
            raise FluxGuardError(f"The gallery has no photo of {person}.")
        return self.vectors[judge][rows]

    def rank(self, vector: Tensor, person: str, judge: str) -> int:
        """How many other people come before ``person`` in a search for ``vector`` [D]; 0 is the first place."""
        cosines = self.vectors[judge] @ vector
        own = [i for i, other in enumerate(self.people) if other == person]
        best = cosines[own].max()
        return len({self.people[i] for i in (cosines > best).nonzero().flatten().tolist()})


@dataclass(frozen=True, eq=False)
class Fold:
    """One turn: recognisers that a treatment may use, and those that only judge it."""

    name: str
    attacked: tuple[FaceEncoder, ...]
    held_out: tuple[FaceEncoder, ...]

    @property
    def ensemble(self) -> Ensemble:
        """For treatments: nothing that judges is in it."""
        return Ensemble(self.attacked)


def folds_of(attackable: Sequence[FaceEncoder], always: Sequence[FaceEncoder]) -> tuple[Fold, ...]:
    """Each attackable recogniser judges once while the others are attacked; those of ``always`` judge every time."""
    if len(attackable) < 2:
        if not attackable or not always:
            raise FluxGuardError(
                "Leaving one recogniser out needs two, better three.", "Give more, or hold one out."
            )
        return (Fold("all", tuple(attackable), tuple(always)),)
    return tuple(
        Fold(f"without {out.name}", tuple(e for e in attackable if e is not out), (out, *always))
        for out in attackable
    )


@dataclass(frozen=True, eq=False)
class Made:
    """A treated picture and what it was made from, both [1, 3, H, W] in [0, 1] as an 8-bit file keeps them.

    Args:
        reference: the same picture without the protection: the photo, or its edit.
        evaluations: of the network; 0 where there is none.
    """

    picture: Tensor
    reference: Tensor
    seconds: float = 0.0
    evaluations: int = 0


@dataclass(frozen=True, eq=False)
class Case:
    """One portrait in one turn, as a treatment gets it.

    Args:
        base: the picture before protection, made when it is first asked for.
    """

    subject: Subject
    fold: Fold
    target: Target
    base: Callable[[], Tensor]
    seed: int


@dataclass(frozen=True, eq=False)
class Arm:
    """A treatment. ``settings`` in words make a log's pictures of other settings another run's."""

    name: str
    label: str
    make: Callable[[Case], Made]
    settings: str = ""


@dataclass(frozen=True, eq=False)
class Bench:
    """What all protocols share.

    Args:
        targets: of which each subject gets one in turn.
        base: a subject's picture before any protection.
        models: the network that treatments and purifiers may use; None where nothing is edited.
        always: recognisers that no treatment ever uses.
    """

    subjects: tuple[Subject, ...]
    gallery: Gallery
    targets: tuple[Target, ...]
    folds: tuple[Fold, ...]
    base: Callable[[Subject], Tensor]
    always: tuple[FaceEncoder, ...] = ()
    turns: Turns = "rotate"
    models: Models | None = None
    seed: int = 0

    def cases(self) -> list[Case]:
        """Portraits in their turns; with ``rotate`` a person has one turn, and each comes equally often."""
        people = list(dict.fromkeys(subject.person for subject in self.subjects))
        out = []
        for subject in self.subjects:
            number = people.index(subject.person)
            turns = self.folds if self.turns == "all" else (self.folds[number % len(self.folds)],)
            out += [self._case(subject, fold, number) for fold in turns]
        return out

    def _case(self, subject: Subject, fold: Fold, number: int) -> Case:
        target = self.targets[number % len(self.targets)]
        return Case(subject, fold, target, lambda: self.base(subject), self.seed + number)


@torch.no_grad()
def embedding(encoder: FaceEncoder, picture: Tensor, points: Tensor) -> Tensor:
    """Unit vector [D] of the face at ``points`` [5, 2] in a picture [1, 3, H, W]."""
    return encoder(align(picture, points[None].to(picture), encoder.crop))[0].cpu()


def without_calibration(encoder: FaceEncoder) -> FaceEncoder:
    """The recogniser without thresholds of another pipeline, to be measured anew in this one."""
    return replace(encoder, thresholds=(), strangers=None)
