"""Terms for photos: how far every recogniser still is from taking the person for a stranger, and how clean it looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluate.likeness import FaceView
from ..recognition.encoder import FaceEncoder
from ..recognition.ensemble import Ensemble
from .engine import Draw, Reading
from .identity import differentiable_ensemble
from .views import View

# Where nobody has measured strangers: recognisers of 512 values spread about so much around 0.
_SPREAD = 0.12


@dataclass(frozen=True, eq=False)
class Scale:
    """A recogniser's own measure of likeness.

    Args:
        centre: what faces have in common [D]; it is taken out before vectors are compared.
        mean, spread: of strangers' cosines after that.
    """

    centre: Tensor
    mean: float
    spread: float


def scale_of(encoder: FaceEncoder) -> Scale:
    """By what was measured on strangers; a recogniser without it is compared as it is.

    Of unit vectors with the mean vector c, strangers' cosines average |c|²; with c taken out they average 0, and
    their spread grows as the vectors shrink.
    """
    if encoder.strangers is None:
        return Scale(torch.zeros(1), 0.0, _SPREAD)
    mean, spread = encoder.strangers.mean, encoder.strangers.spread
    if encoder.mean_face is None or not 0 < mean < 1:
        return Scale(torch.zeros(1), mean, spread)
    return Scale(mean**0.5 * encoder.mean_face, 0.0, spread / (1 - mean))


@dataclass(frozen=True, eq=False)
class StrangerTerm:
    """How many spreads above a stranger the attacked recognisers see the person, and ``beyond`` further.

    The loss is max(0, (cos - mean) / spread + beyond), averaged over views and recognisers; the goal is met where
    it is 0 in all of them. Each recogniser counts in its own units: strangers average 0.8 for one, 0.05 for another.
    """

    ensemble: Ensemble
    scales: Sequence[Scale]
    person: Sequence[Tensor]
    beyond: float = 2.0
    name: str = "identity"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [1, 3, H, W]. Figures: ``spreads NAME``, the mean over views, by recogniser."""
        seen = self.ensemble.embed_attacked(
            lambda crop: torch.cat([view(picture, crop) for view in draw.views])
        )
        above = [
            (_centred(vectors, scale) @ person.to(vectors) - scale.mean) / scale.spread
            for vectors, scale, person in zip(seen, self.scales, self.person, strict=True)
        ]
        missing = torch.stack([(value + self.beyond).clamp(min=0).mean() for value in above])
        loss = self.ensemble.combine(missing)[None]
        figures = {
            f"spreads {encoder.name}": value.mean()[None]
            for encoder, value in zip(self.ensemble.attacked, above, strict=True)
        }
        return Reading(loss, loss == 0, figures)


def stranger_term(
    ensemble: Ensemble, source: Tensor, view: View, *, beyond: float = 2.0
) -> StrangerTerm:
    """Embed the person of a picture [1, 3, H, W], as it is and mirrored."""
    ensemble = differentiable_ensemble(ensemble)
    scales = [scale_of(encoder) for encoder in ensemble.attacked]
    person = []
    with torch.no_grad():
        for encoder, scale in zip(ensemble.attacked, scales, strict=True):
            face = view(source, encoder.crop)
            both = encoder(torch.cat([face, face.flip(3)])).mean(0, keepdim=True)
            person.append(_centred(F.normalize(both, dim=1), scale)[0])
    return StrangerTerm(ensemble, scales, person, beyond)


def _centred(vectors: Tensor, scale: Scale) -> Tensor:
    return F.normalize(vectors - scale.centre.to(vectors), dim=1)


@dataclass(frozen=True, eq=False)
class CleanTerm:
    """What the change costs the face's look: 1 - HaarPSI. A cost, without a goal."""

    view: FaceView
    name: str = "look"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [1, 3, h, w] of the square around the face."""
        return Reading(1 - self.view.haarpsi(picture))
