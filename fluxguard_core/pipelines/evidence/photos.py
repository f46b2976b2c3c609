"""A bench of the user's photos: a folder a person, or one folder with a list of who is who, as CelebA-HQ comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import FluxGuardError
from ...faces.alignment import align
from ...faces.face import Face
from ...pictures.files import read_picture
from ...recognition.encoder import FaceEncoder
from ..face_set import FacePhoto, chosen_pairs, working_crop
from .bench import Bench, Subject, Target, Turns, folds_of
from .calibration import calibrated_gallery

# Photo that is aimed with, photo of the same person that judges: the four targets that papers on CelebA-HQ use.
PUBLISHED = (
    ("005869", "008793"),
    ("085807", "047073"),
    ("116481", "055622"),
    ("169284", "166607"),
)
_KINDS = (".jpg", ".jpeg", ".png", ".webp")
_TARGETS = 4


def listed_photos(
    folder: Path, find: Callable[[Path], Face | None], identities: Mapping[str, str] | None
) -> list[FacePhoto]:
    """Photos with their points; those without a face are left out.

    Args:
        find: the face in a file.
        identities: person by file name, for one folder of everybody; None takes each sub-folder as a person.
    """
    out = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _KINDS):
        name = path.relative_to(folder).as_posix()
        person = name.split("/")[0] if identities is None else identities.get(path.name, "")
        if not person or (identities is None and "/" not in name):
            continue
        face = find(path)
        if face is not None and face.landmarks is not None:
            out.append(FacePhoto(path, name, person, face.landmarks.float()))
    if not out:
        raise FluxGuardError(
            f"No photo with a face and a person was found in {folder}.",
            "Expected a sub-folder a person, or one folder with ‹give identities›.",
        )
    return out


def read_identities(path: Path) -> dict[str, str]:
    """Lines of FILE PERSON, as identity_CelebA.txt has them."""
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    wrong = [line for line in lines if len(line) != 2]
    if wrong:
        raise FluxGuardError(
            f"Expected FILE PERSON in each line of {path.name}, got '{' '.join(wrong[0])}'."
        )
    return dict(lines)


def target_pairs(text: str) -> list[tuple[str, str]]:
    """Names of the photo that is aimed with and of the one that judges, from a file's lines or the published ones."""
    if text == "published":
        return list(PUBLISHED)
    lines = [line.split() for line in Path(text).read_text(encoding="utf-8").splitlines()]
    pairs = [(line[0], line[1]) for line in lines if len(line) == 2]
    if not pairs:
        raise FluxGuardError(f"Expected two photos' names in each line of {Path(text).name}.")
    return pairs


def photo_bench(
    photos: Sequence[FacePhoto],
    attackable: Sequence[FaceEncoder],
    always: Sequence[FaceEncoder],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    people: int | None = None,
    turns: Turns = "rotate",
    seed: int = 0,
) -> Bench:
    """One portrait a person, its largest; all other photos are the gallery.

    Args:
        pairs: the targets' photos by name, stem or path; None takes the last people with two photos.
    """
    targets, aimed, judging = _targets(photos, pairs)
    whom = {target.person for target in targets}
    named = [replace(p, person=judging[p.name]) if p.name in judging else p for p in photos]
    chosen = [
        (photo, others)
        for photo, others in chosen_pairs([p for p in named if p.name not in aimed])
        if photo.person not in whom
    ][:people]
    if len(chosen) < 2:
        raise FluxGuardError(
            f"{len(chosen)} people besides the targets have another photo to be judged by; an interval needs two.",
            "Give more photos of more people.",
        )
    treated = {photo.name for photo, _ in chosen} | aimed
    shown = [photo for photo in named if photo.name not in treated]

    def crops(encoder: FaceEncoder) -> Tensor:
        return torch.cat([align(p.read(), p.points[None], encoder.crop) for p in shown])

    encoders, gallery = calibrated_gallery(
        (*attackable, *always), [photo.person for photo in shown], crops
    )
    kept = encoders[len(attackable) :]
    return Bench(
        subjects=tuple(_subject(photo) for photo, _ in chosen),
        gallery=gallery,
        targets=targets,
        folds=folds_of(encoders[: len(attackable)], kept),
        base=lambda subject: subject.photo,
        always=kept,
        turns=turns,
        seed=seed,
    )


def _subject(photo: FacePhoto) -> Subject:
    crop, points = working_crop(photo)
    return Subject(photo.name, photo.person, crop, points)


def _targets(
    photos: Sequence[FacePhoto], pairs: Sequence[tuple[str, str]] | None
) -> tuple[tuple[Target, ...], set[str], dict[str, str]]:
    """Targets, the names of the photos that are aimed with, and whom the judging photos show."""
    if pairs is None:
        found = chosen_pairs(photos)[-_TARGETS:][: max(1, len(chosen_pairs(photos)) - 2)]
        targets = tuple(Target(photo.person, photo.read()) for photo, _ in found)
        return targets, {photo.name for photo, _ in found}, {}
    known = {key: photo for photo in photos for key in (photo.name, photo.path.stem)}
    missing = [name for pair in pairs for name in pair if Path(name).stem not in known]
    missing = [name for name in missing if name not in known]
    if missing:
        raise FluxGuardError(f"The target's photo {missing[0]} is not among the photos.")

    def of(name: str) -> FacePhoto:
        return known.get(name) or known[Path(name).stem]

    people = [f"target {number}" for number in range(len(pairs))]
    judging = {of(judge).name: who for who, (_, judge) in zip(people, pairs, strict=True)}
    targets = tuple(
        Target(who, read_picture(of(aim).path).rgb)
        for who, (aim, _) in zip(people, pairs, strict=True)
    )
    return targets, {of(aim).name for aim, _ in pairs}, judging
