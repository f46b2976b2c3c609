"""Treatments of a finished picture: ours for photos, and pixel attacks that have been published."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...evaluate.quality import eight_bit
from ...protect.engine import DescentSettings, Draw, Reading, descend
from ...protect.identity import differentiable_ensemble
from ...protect.optimisers import SignMomentum
from ...protect.photo import Autoencoder, protect_pixels
from ...protect.photo_views import PhotoViews
from ...protect.presets import PHOTO_PRESETS
from ...protect.region import face_region
from ...protect.spaces import PixelSpace
from ...recognition.ensemble import Ensemble
from ..face_bench import CHANGES
from .bench import Arm, Bench, Case, Made
from .runner import UNPROTECTED

BUDGET, STEPS, CROWD = 8 / 255, 20, 10


def unprotected() -> Arm:
    """The picture before any protection."""

    def make(case: Case) -> Made:
        return Made(case.base(), case.base())

    return Arm(UNPROTECTED, "unprotected", make)


def photo_arms(autoencoder: Autoencoder | None = None) -> list[Arm]:
    """Ours for photos that are not edited; with an autoencoder its latent is varied as well."""

    def arm(name: str, preset: str, coder: Autoencoder | None) -> Arm:
        def make(case: Case) -> Made:
            base, started = case.base(), time.perf_counter()
            done = protect_pixels(
                base,
                case.fold.ensemble,
                case.subject.points,
                PHOTO_PRESETS[preset],
                autoencoder=coder,
                seed=case.seed,
            )
            return Made(eight_bit(done.picture), base, time.perf_counter() - started)

        label = f"ours for photos, {preset}" + (", latent and pixels" if coder else "")
        return Arm(name, label, make, repr(PHOTO_PRESETS[preset]))

    arms = [arm(name, name, None) for name in PHOTO_PRESETS]
    return arms if autoencoder is None else [*arms, arm("default+latent", "default", autoencoder)]


def rivals(targets: Callable[[Case, Ensemble], Sequence[Tensor]] | None = None) -> list[Arm]:
    """Pixel PGD, MI-DI-TI, TIP-style where there is a crowd to hide in, and plain noise and blur."""
    labels = {
        "pgd": "pixel PGD",
        "mi-di-ti": "MI-DI-TI momentum attack",
        "noise": "noise",
        "blur": "blur",
    }

    def arm(name: str) -> Arm:
        def make(case: Case) -> Made:
            base, started = case.base(), time.perf_counter()
            change = CHANGES[name](base, case.subject.points, case.fold.ensemble, case.seed)
            return Made(eight_bit(base + change), base, time.perf_counter() - started)

        return Arm(name, labels[name], make)

    arms = [arm(name) for name in labels]
    if targets is None:
        return arms
    return [*arms, Arm("tip", "TIP-style, into a crowd", lambda case: _tip(case, targets))]


@dataclass(frozen=True, eq=False)
class CrowdTerm:
    """Away from the person and towards whichever of several strangers is nearest (TIP-IM, Yang et al. 2021, Eq. 4).

    Args:
        person: unit vector [D] by attacked recogniser.
        crowd: unit vectors [K, D] by attacked recogniser, the same K people in the same order.
    """

    ensemble: Ensemble
    person: Sequence[Tensor]
    crowd: Sequence[Tensor]
    name: str = "identity"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [1, 3, H, W]."""
        seen = self.ensemble.embed_attacked(
            lambda crop: torch.cat([view(picture, crop) for view in draw.views])
        )
        own = torch.stack([v @ p for v, p in zip(seen, self.person, strict=True)]).mean()
        others = torch.stack([(v @ c.T).mean(0) for v, c in zip(seen, self.crowd, strict=True)])
        return Reading((own - others.mean(0).max())[None])


def crowd_of(bench: Bench) -> Callable[[Case, Ensemble], Sequence[Tensor]]:
    """The gallery's last ten photos of others, as the attacked recognisers see them."""

    def crowd(case: Case, ensemble: Ensemble) -> Sequence[Tensor]:
        others = (i for i, who in enumerate(bench.gallery.people) if who != case.subject.person)
        rows = list(others)[-CROWD:]
        return [bench.gallery.vectors[encoder.name][rows] for encoder in ensemble.attacked]

    return crowd


def _tip(case: Case, crowd: Callable[[Case, Ensemble], Sequence[Tensor]]) -> Made:
    base, started = case.base(), time.perf_counter()
    ensemble = differentiable_ensemble(case.fold.ensemble)
    points = case.subject.points[None]
    views = PhotoViews(points, 1)
    with torch.no_grad():
        person = [encoder(views.plain(base, encoder.crop))[0] for encoder in ensemble.attacked]
    generator = torch.Generator().manual_seed(case.seed)
    region = face_region(points, base.shape[-2], base.shape[-1], 1)
    done = descend(
        PixelSpace(base, BUDGET, mask=region, generator=generator),
        [CrowdTerm(ensemble, person, crowd(case, ensemble))],
        SignMomentum(1 / 255, 1.0),
        DescentSettings(steps=STEPS),
        draw=lambda: Draw([views.plain], generator),
    )
    return Made(eight_bit(done.variable), base, time.perf_counter() - started)
