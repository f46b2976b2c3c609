"""The frontier between likeness and protection: every method on the same photos, judged by recognisers it never saw."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.likeness import face_view, measured
from ..evaluate.transforms import jpeg, rescale
from ..faces.alignment import align
from ..protect.engine import DescentSettings, Draw, descend
from ..protect.optimisers import SignMomentum
from ..protect.photo import Autoencoder, protect_pixels
from ..protect.photo_views import PhotoViews
from ..protect.presets import PHOTO_PRESETS, PhotoPreset
from ..protect.region import face_region
from ..protect.spaces import PixelSpace
from ..protect.strangers import stranger_term
from ..protect.visibility import Visibility, VisibilityBudget
from ..recognition.encoder import FaceEncoder
from ..recognition.ensemble import Ensemble
from ..regions.morphology import gaussian_blur
from .face_set import FacePhoto, working_crop

PRESETS = ("default", "gentle", "strong")
BASELINES = ("pgd", "mi-di-ti", "noise", "blur")
_SHARED = {"jpeg75": jpeg(75), "half": rescale(0.5)}


@dataclass(frozen=True)
class Cell:
    """One method at one strength on one photo, judged by one recogniser.

    Args:
        strength: share of the default's visibility budget; presets have their own, which is strength 1.
        cosines, matches: with each other photo of the person.
        clean_cosines, clean_matches: the unprotected photo's.
        shared: mean cosine after a sharing step, by its name; ``shared_clean`` of the unprotected photo.
        way: share of the way from the person's own similarity to a stranger's.
    """

    method: str
    strength: float
    photo: str
    judge: str
    cosines: list[float]
    matches: list[bool]
    clean_cosines: list[float]
    clean_matches: list[bool]
    shared: dict[str, float]
    shared_clean: dict[str, float]
    way: float
    psnr: float
    haarpsi: float
    shift: float
    skin: float
    spot: float
    seconds: float

    @property
    def key(self) -> tuple[str, float, str, str]:
        """What makes a cell the same in a resumed run."""
        return (self.method, self.strength, self.photo, self.judge)


def scaled_budget(budget: VisibilityBudget, strength: float) -> VisibilityBudget:
    """A budget for ``strength`` times the change."""
    return replace(
        budget,
        psnr=budget.psnr - 20 * float(torch.tensor(strength).log10()),
        haarpsi=max(0.05, 1 - strength * (1 - budget.haarpsi)),
        shift=strength * budget.shift,
        skin=strength * budget.skin,
        spot=strength * budget.spot,
        line=strength * budget.line,
    )


@dataclass(frozen=True, eq=False)
class Bench:
    """What all cells share."""

    encoders: Sequence[FaceEncoder]
    embeddings: Mapping[str, Mapping[str, Tensor]]
    autoencoder: Autoencoder | None = None
    seed: int = 0

    def protected(
        self, method: str, strength: float, photo: FacePhoto, attacked: Sequence[FaceEncoder]
    ) -> tuple[Tensor, float]:
        """The protected working crop [1, 3, h, w], and the seconds it took."""
        crop, points = working_crop(photo)
        started = time.perf_counter()
        budget = scaled_budget(PHOTO_PRESETS["default"].budget, strength)
        ensemble = Ensemble(tuple(attacked))
        name, _, space = method.partition("+")
        if name in PRESETS:
            preset: PhotoPreset = PHOTO_PRESETS[name]
            if strength != 1:
                preset = replace(preset, budget=scaled_budget(preset.budget, strength))
            result = protect_pixels(
                crop,
                ensemble,
                points,
                preset,
                autoencoder=self.autoencoder if space == "latent" else None,
                seed=self.seed,
            ).picture
        else:
            change = CHANGES[name](crop, points, ensemble, self.seed)
            result = _held(crop, points, change, budget)
        return result, time.perf_counter() - started

    def judged(
        self,
        method: str,
        strength: float,
        photo: FacePhoto,
        others: Sequence[FacePhoto],
        judge: FaceEncoder,
        result: tuple[Tensor, float],
    ) -> Cell:
        """One cell: what the judge, who was not attacked, says."""
        picture, seconds = result
        crop, points = working_crop(photo)
        known = torch.stack([self.embeddings[judge.name][other.name] for other in others])
        cosines = known @ _embed(judge, picture, points)
        clean = known @ _embed(judge, crop, points)
        limit = judge.threshold()
        strangers = judge.strangers.mean if judge.strangers else 0.0
        look = measured(*_views(crop, picture, points))
        return Cell(
            method=method,
            strength=strength,
            photo=photo.name,
            judge=judge.name,
            cosines=cosines.tolist(),
            matches=(cosines > limit).tolist(),
            clean_cosines=clean.tolist(),
            clean_matches=(clean > limit).tolist(),
            shared=_after_sharing(judge, picture, points, known),
            shared_clean=_after_sharing(judge, crop, points, known),
            way=float((clean.mean() - cosines.mean()) / (clean.mean() - strangers)),
            seconds=seconds,
            **asdict(look),
        )


def run_cells(
    bench: Bench,
    pairs: Sequence[tuple[FacePhoto, Sequence[FacePhoto]]],
    methods: Sequence[tuple[str, float]],
    folds: Sequence[tuple[Sequence[FaceEncoder], Sequence[FaceEncoder]]],
    log: Path,
    told: Callable[[Cell], None],
) -> list[Cell]:
    """Every method on every photo in every fold (attacked, judges); cells that the log has are not made again."""
    cells = {cell.key: cell for cell in read_cells(log)}
    for photo, others in pairs:
        for attacked, judges in folds:
            for method, strength in methods:
                wanted = [j for j in judges if (method, strength, photo.name, j.name) not in cells]
                if not wanted:
                    continue
                result = bench.protected(method, strength, photo, attacked)
                for judge in wanted:
                    cell = bench.judged(method, strength, photo, others, judge, result)
                    cells[cell.key] = cell
                    with log.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(asdict(cell)) + "\n")
                    told(cell)
    return list(cells.values())


def read_cells(log: Path) -> list[Cell]:
    """The cells of an earlier run; none where there is no log."""
    if not log.is_file():
        return []
    try:
        rows: list[dict[str, Any]] = [
            json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()
        ]
        return [Cell(**row) for row in rows]
    except (ValueError, TypeError) as error:
        raise FluxGuardError(
            f"{log} is no log of this command ({error}).", "Choose another output folder."
        ) from error


def leave_one_out(
    encoders: Sequence[FaceEncoder], judges: Sequence[FaceEncoder]
) -> list[tuple[list[FaceEncoder], list[FaceEncoder]]]:
    """Folds (attacked, judges): each recogniser judges once, and those that are held out judge always.

    With fewer than three recognisers and a held-out one nothing is left out.
    """
    if len(encoders) < 2 and not judges:
        raise FluxGuardError(
            "Leaving one recogniser out needs two, better three.", "Give more, or hold one out."
        )
    if len(encoders) < 2:
        return [(list(encoders), list(judges))]
    return [([e for e in encoders if e is not out], [out, *judges]) for out in encoders]


@torch.no_grad()
def _embed(encoder: FaceEncoder, picture: Tensor, points: Tensor) -> Tensor:
    return encoder(align(picture, points[None], encoder.crop))[0].cpu()


def _after_sharing(
    judge: FaceEncoder, picture: Tensor, points: Tensor, known: Tensor
) -> dict[str, float]:
    return {
        name: float((known @ _embed(judge, step(picture), points)).mean())
        for name, step in _SHARED.items()
    }


def _views(crop: Tensor, picture: Tensor, points: Tensor) -> tuple[Any, Tensor]:
    view = face_view(crop, points)
    return view, view.cut(picture)


def _held(crop: Tensor, points: Tensor, change: Tensor, budget: VisibilityBudget) -> Tensor:
    """A baseline's change at the largest size that the budget allows: equal likeness."""
    view = face_view(crop, points)
    visibility = Visibility(view, budget)
    inside = view.cut(change)
    top, bottom, left, right = view.box
    # Up to four times larger as well, so that a small change fills its budget too.
    factor = visibility.scale(4 * inside, bisections=12)
    out = crop.clone()
    out[..., top:bottom, left:right] += 4 * factor * inside
    return (out * 255).round().clamp(0, 255) / 255


Baseline = Callable[[Tensor, Tensor, Ensemble, int], Tensor]


def _attack(momentum: float, diverse: bool, kernel: float) -> Baseline:
    """Signed gradient steps on the face's pixels, 8/255 in 20 steps of 1/255."""

    def change(crop: Tensor, points: Tensor, ensemble: Ensemble, seed: int) -> Tensor:
        views = PhotoViews(points[None], 1)
        generator = torch.Generator().manual_seed(seed)
        source = crop.clone()
        done = descend(
            PixelSpace(source, 8 / 255, mask=_face(source, points), generator=generator),
            [stranger_term(ensemble, source, views.plain)],
            _Smoothed(SignMomentum(1 / 255, momentum), kernel),
            DescentSettings(steps=20),
            draw=lambda: Draw(views(generator) if diverse else [views.plain], generator),
        )
        return done.variable - source

    return change


@dataclass(eq=False)
class _Smoothed:
    """An optimiser that sees a blurred gradient (translation invariance, Dong et al. 2019)."""

    rule: SignMomentum
    sigma: float

    def step(self, variable: Tensor, gradient: Tensor) -> Tensor:
        smooth = gaussian_blur(gradient, self.sigma) if self.sigma else gradient
        return self.rule.step(variable, smooth)

    def reset(self) -> None:
        self.rule.reset()


def _noise(crop: Tensor, points: Tensor, ensemble: Ensemble, seed: int) -> Tensor:
    del ensemble
    generator = torch.Generator().manual_seed(seed)
    grain = torch.randn(crop.shape, generator=generator)
    return 8 / 255 * grain * _face(crop, points)


def _blur(crop: Tensor, points: Tensor, ensemble: Ensemble, seed: int) -> Tensor:
    del ensemble, seed
    return (gaussian_blur(crop, 3.0) - crop) * _face(crop, points)


def _face(crop: Tensor, points: Tensor) -> Tensor:
    return face_region(points[None], crop.shape[-2], crop.shape[-1], 1)


CHANGES: dict[str, Baseline] = {
    "pgd": _attack(0.0, diverse=False, kernel=0.0),
    "mi-di-ti": _attack(1.0, diverse=True, kernel=1.0),
    "noise": _noise,
    "blur": _blur,
}
