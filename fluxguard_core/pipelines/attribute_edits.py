"""Attribute privacy in words: a table of prompts and regions drives FluxGuard's own masked edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..defences.attribute_words import worded
from ..defences.attributes import Wanted, flipped, given, randomised
from ..errors import FluxGuardError
from ..evaluate.quality import eight_bit
from ..faces.face import choose
from ..pictures.face_crop import Patch
from ..protect.presets import Preset, preset_named
from ..recognition.ensemble import Ensemble
from .attributes import AttributeWishes, Changed, Judge, measured, region_of
from .models import Models
from .photo import Protected, Wishes, protect_photo
from .portrait import Observer


def change_attributes_in_words(
    models: Models,
    picture: Tensor,
    wishes: AttributeWishes,
    judges: Sequence[Judge] = (),
    *,
    source_prompt: str | None = None,
    mask: Tensor | None = None,
    preset: Preset | None = None,
    observer: Observer | None = None,
) -> Changed:
    """Change what the largest face of a picture [1, 3, H, W] reveals with the model's own masked edit.

    Args:
        wishes: its mode may be set, or flip and random where the first of the judges can tell what is there.
        source_prompt: what the picture shows besides the attributes; None where the model sees for itself.
        mask: instead of the attributes' regions on a parsed face.
        preset: of edit and protection; the wishes' own where None.

    Raises:
        FluxGuardError: a mode that words cannot serve, no way to find the regions.
    """
    face = choose(models.find_faces(picture[0]), "largest")[0]
    if face.landmarks is None:
        raise FluxGuardError(
            "The face came as a box without its five points.", "Use a detector that finds points."
        )
    points = face.landmarks
    wanted = _wanted(wishes, picture, points, judges)
    order = worded(dict(wanted.targets))
    where = (
        mask
        if mask is not None
        else region_of(models.parse_face, picture, points, tuple(wanted.targets))
    )
    if where is None:
        raise FluxGuardError(
            "Where the attribute lies is not known: there is no face parser, or it found nothing.",
            "Give the area with ‹give mask› (white may change, same size as the photo).",
        )
    chosen = preset or preset_named(wishes.preset)
    if wishes.identity == "keep":
        # The edit alone is taken, so the protection does as little as it can.
        chosen = replace(chosen, attacked=1, refiner=replace(chosen.refiner, steps=1))
    said = None if source_prompt is None else f"{source_prompt}, {order.source}"
    prompt = order.target if source_prompt is None else f"{source_prompt}, {order.target}"
    done = protect_photo(
        models,
        picture,
        Wishes(prompt, said, (where > 0.5).to(where), preset=chosen, seed=wishes.seed),
        measuring=None,
        observer=observer,
    )
    result = eight_bit(_part_of_the_way(picture, done, wishes.identity, order.strength))
    note = f"Edited in words: '{order.target}' instead of '{order.source}', strength {order.strength:g}."
    report = measured(
        (picture, result),
        points,
        wanted,
        tuple((judge, False) for judge in judges),
        _members(models.ensemble),
        strengths={},
        identity=wishes.identity,
        notes=(note,) if judges else (note, "No classifier was asked what it reads."),
    )
    return Changed(result, where, wanted, report)


def _members(ensemble: Ensemble) -> Ensemble | None:
    return ensemble if all(e.thresholds for e in ensemble.attacked) else None


def _part_of_the_way(picture: Tensor, done: Protected, identity: str, strength: float) -> Tensor:
    """Identity kept: the edit, a share of the way; protected: the protection stays whole."""
    patch: Patch = done.finals.edited if identity == "keep" else done.finals.protected
    edit = patch.on(picture)
    if identity == "protect":
        return edit
    return picture + strength * (edit - picture)


def _wanted(
    wishes: AttributeWishes, picture: Tensor, points: Tensor, judges: Sequence[Judge]
) -> Wanted:
    seen: dict[str, float] = dict.fromkeys(wishes.values, 0.5)
    if judges:
        with torch.no_grad():
            told = judges[0].look(picture, points).tolist()
        seen = dict(zip(judges[0].names, told, strict=True))
    elif wishes.mode != "set":
        raise FluxGuardError(
            f"The mode {wishes.mode} needs a classifier that tells what the face shows.",
            "Say what it is to show with the mode set, or give an AttGAN with its classifier.",
        )
    if wishes.mode == "set":
        return given(wishes.values, seen)
    if wishes.mode == "flip":
        return flipped(wishes.names, seen)
    if wishes.mode == "random":
        return randomised(wishes.count, seen, keep=wishes.keep, seed=wishes.seed)
    raise FluxGuardError(
        f"Words put an attribute on or take it off; the mode {wishes.mode} needs strengths between.",
        "Use AttGAN, or the modes flip, set and random.",
    )
