"""A face recogniser as a function: aligned face in, unit vector out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FluxGuardError
from ..faces.crops import Crop, CropName, Points
from ..worlds import World

Colour = Literal["rgb", "bgr", "both"]
Level = float | tuple[float, float, float]
"""One value for all channels, or one a channel in the order they are fed."""


@dataclass(frozen=True)
class Threshold:
    """Cosine above which (strictly) two faces count as one person, at a false accept rate.

    `far` is the share of pairs of strangers that this cosine still accepts, in (0, 1); `source`
    says who measured it and on which pictures, for no threshold holds on other pictures unasked;
    `pairs` of strangers were compared, None where that is not known.
    """

    far: float
    value: float
    source: str
    pairs: int | None = None


@dataclass(frozen=True)
class Strangers:
    """How similar different people are to a recogniser: mean and standard deviation of the cosines.

    `pairs` were compared, on the pictures that `source` names. The spread is the unit in which
    recognisers can be compared: for one strangers average 0.8, for another 0.05.
    """

    mean: float
    spread: float
    source: str
    pairs: int | None = None


@dataclass(frozen=True, eq=False)
class FaceEncoder:
    """A frozen recogniser with its input convention.

    The network sees (x - mean) / std of the pictures in the channel order `colour`; "both" averages
    the unit vectors of the RGB and the BGR reading, for models whose training order is in doubt.
    mean_face is the unit vector [D] of the mean of many faces, and `strangers` how similar
    different people are, where it has been measured. `layout` and `margin` say how the face is cut
    (`crop`), `world` which faces the recogniser knows. Building one puts the network into eval mode
    and freezes its parameters.
    """

    name: str
    network: nn.Module
    size: int
    mean: Level = 0.5
    std: Level = 0.5
    colour: Colour = "rgb"
    thresholds: tuple[Threshold, ...] = ()
    mean_face: Tensor | None = None
    world: World = "photo"
    layout: CropName | Points = "arcface"
    margin: float = 0.0
    strangers: Strangers | None = None

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)

    @property
    def crop(self) -> Crop:
        """How its faces are cut; give it to `align`."""
        return Crop(self.size, self.layout, self.margin)

    def __call__(self, faces: Tensor) -> Tensor:
        """Embed faces cut as `crop` says [B,3,size,size], RGB in [0,1], as unit vectors [B,D].

        The network computes where its weights lie; the vectors come back to the faces' device.
        """
        expected = (3, self.size, self.size)
        if faces.ndim != 4 or tuple(faces.shape[1:]) != expected:
            raise FluxGuardError(
                f"{self.name} expects faces of shape [B, 3, {self.size}, {self.size}], got "
                f"{list(faces.shape)}.",
                "Cut them with recognition.align(image, landmarks, encoder.crop) first.",
            )
        device, parameter = faces.device, next(self.network.parameters(), None)
        if parameter is not None:
            faces = faces.to(parameter)
        readings = {"rgb": [faces], "bgr": [faces.flip(1)], "both": [faces, faces.flip(1)]}
        vectors = [self._embed(planes) for planes in readings[self.colour]]
        joined = vectors[0] if len(vectors) == 1 else F.normalize(vectors[0] + vectors[1], dim=1)
        return joined.to(device)

    def _embed(self, planes: Tensor) -> Tensor:
        values = (planes - _level(self.mean, planes)) / _level(self.std, planes)
        return F.normalize(self.network(values).float(), dim=1)

    def threshold(self, far: float = 1e-2) -> float:
        """Cosine threshold at the false accept rate `far`; FluxGuardError when none is known."""
        for entry in self.thresholds:
            if math.isclose(entry.far, far, rel_tol=1e-6):
                return entry.value
        known = ", ".join(f"{entry.far:g}" for entry in self.thresholds) or "none"
        raise FluxGuardError(
            f"{self.name} has no threshold at false accept rate {far:g} (known: {known}).",
            "Measure one on pictures of strangers with ‹run calibrate FILE --faces DIR›.",
        )


def _level(value: Level, like: Tensor) -> float | Tensor:
    if isinstance(value, tuple):
        return torch.tensor(value, dtype=like.dtype, device=like.device)[:, None, None]
    return value
