"""The miniature's bench: drawn people that no network has seen, their edits, and a gallery of hundreds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..faces.alignment import align
from ..pipelines.evidence.bench import Arm, Bench, Subject, Target, Turns, folds_of
from ..pipelines.evidence.calibration import calibrated_gallery
from ..pipelines.evidence.flux_arms import ablations, flux_arms
from ..pipelines.evidence.pixel_arms import crowd_of, rivals, unprotected
from ..recognition.encoder import FaceEncoder
from ..recognition.ensemble import Ensemble
from .captions import caption
from .faces import ATTACKABLE, HELD_OUT, load_recogniser
from .models import miniature
from .people import HELD_OUT_WORLD, spec_of
from .portrait_spec import with_attributes
from .renderer import render, render_batch

# Numbers behind the people of training, of the recognisers' own calibration and of README's tables.
SUBJECTS, TARGETS, STRANGERS = 30_000, 39_000, 40_000
TARGET_COUNT, GALLERY_SHOT = 4, 9
# So many subjects are in a large gallery whether they are treated or not, so that a run may grow.
KNOWN = 100
EDITS: tuple[tuple[str, dict[str, str]], ...] = (
    ("a person wearing red lipstick", {"lipstick": "none"}),
    ("a person wearing eyeglasses", {"eyeglasses": "no"}),
    ("a person wearing blue eyeshadow", {"eyeshadow": "none", "eyeglasses": "no"}),
    ("a person with a beard", {"beard": "no"}),
    ("a person smiling", {"smile": "no"}),
)
"""What is asked for, and what the portrait shows before, so that every edit is one."""


def miniature_bench(
    people: int, portraits: int, gallery: int, turns: Turns, seed: int = 0
) -> tuple[Bench, list[Arm]]:
    """Bench and treatments.

    Args:
        people, portraits: so many people in so many shots each.
        gallery: people in the gallery, of whom the subjects and four targets are some. It is the same for any
            number of people up to a fifth of it, or a hundred.
    """
    subjects = tuple(
        _subject(person, shot) for person in range(people) for shot in range(portraits)
    )
    known = max(people, min(KNOWN, gallery // 5))
    shown = [
        *((str(p), (SUBJECTS + p, GALLERY_SHOT)) for p in range(known)),
        *((f"target {t}", (TARGETS + t, GALLERY_SHOT)) for t in range(TARGET_COUNT)),
    ]
    shown += [(f"stranger {s}", (STRANGERS + s, 0)) for s in range(max(0, gallery - len(shown)))]
    pictures, points = _rendered([who for _, who in shown])

    def crops(encoder: FaceEncoder) -> Tensor:
        return torch.cat(
            [
                align(p, five, encoder.crop)
                for p, five in zip(pictures.split(64), points.split(64), strict=True)
            ]
        )

    encoders, searched = calibrated_gallery(
        [load_recogniser(name) for name in (*ATTACKABLE, *HELD_OUT)],
        [name for name, _ in shown],
        crops,
    )
    always = encoders[len(ATTACKABLE) :]
    models = miniature(Ensemble(encoders[:1]))
    editor, arms = flux_arms(models)
    bench = Bench(
        subjects=subjects,
        gallery=searched,
        targets=tuple(_target(number) for number in range(TARGET_COUNT)),
        folds=folds_of(encoders[: len(ATTACKABLE)], always),
        base=editor.edited,
        always=always,
        turns=turns,
        models=models,
        seed=seed,
    )
    return bench, [unprotected(), *arms, *rivals(crowd_of(bench)), *ablations(editor)]


def _subject(person: int, shot: int) -> Subject:
    prompt, before = EDITS[(person + shot) % len(EDITS)]
    portrait = render(with_attributes(spec_of(HELD_OUT_WORLD, SUBJECTS + person, shot), **before))
    return Subject(
        name=f"{person}.{shot}",
        person=str(person),
        photo=(portrait.image[None] * 255).round() / 255,
        points=portrait.landmarks,
        source_prompt=caption(portrait.spec.attributes),
        prompt=prompt,
    )


def _target(number: int) -> Target:
    photo = render(spec_of(HELD_OUT_WORLD, TARGETS + number, 0)).image[None]
    return Target(f"target {number}", photo)


def _rendered(who: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, 128, 128] and points [N, 5, 2]."""
    parts = [
        render_batch([spec_of(HELD_OUT_WORLD, *each) for each in who[start : start + 32]])
        for start in range(0, len(who), 32)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[2] for p in parts])
