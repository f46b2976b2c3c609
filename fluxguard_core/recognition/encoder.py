"""A face recogniser as a function: aligned face in, unit vector out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FluxGuardError

Colour = Literal["rgb", "bgr", "both"]


@dataclass(frozen=True)
class Threshold:
    """Cosine above which (strictly) two faces count as one person, at a false accept rate.

    `far` is the share of pairs of strangers that this cosine still accepts, in (0, 1); `source`
    says who measured it and on which pictures, for no threshold holds on other pictures unasked.
    """

    far: float
    value: float
    source: str


@dataclass(frozen=True, eq=False)
class FaceEncoder:
    """A frozen recogniser with its input convention.

    The network sees (x - mean) / std of the pictures in the channel order `colour`; "both" averages
    the unit vectors of the RGB and the BGR reading, for models whose training order is in doubt.
    mean_face is the unit vector [D] of the mean of many faces, where it has been measured.
    Building one puts the network into eval mode and freezes its parameters.
    """

    name: str
    network: nn.Module
    size: int
    mean: float = 0.5
    std: float = 0.5
    colour: Colour = "rgb"
    thresholds: tuple[Threshold, ...] = ()
    mean_face: Tensor | None = None

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)

    def __call__(self, faces: Tensor) -> Tensor:
        """Embed aligned faces [B,3,size,size], RGB in [0,1], as unit vectors [B,D].

        The network computes where its weights lie; the vectors come back to the faces' device.
        """
        expected = (3, self.size, self.size)
        if faces.ndim != 4 or tuple(faces.shape[1:]) != expected:
            raise FluxGuardError(
                f"{self.name} expects faces of shape [B, 3, {self.size}, {self.size}], got "
                f"{list(faces.shape)}; cut them with recognition.align(image, landmarks, "
                f"{self.size}) first."
            )
        device, parameter = faces.device, next(self.network.parameters(), None)
        if parameter is not None:
            faces = faces.to(parameter)
        faces = (faces - self.mean) / self.std
        readings = {"rgb": [faces], "bgr": [faces.flip(1)], "both": [faces, faces.flip(1)]}
        vectors = [F.normalize(self.network(x).float(), dim=1) for x in readings[self.colour]]
        joined = vectors[0] if len(vectors) == 1 else F.normalize(vectors[0] + vectors[1], dim=1)
        return joined.to(device)

    def threshold(self, far: float = 1e-2) -> float:
        """Cosine threshold at the false accept rate `far`; FluxGuardError when none is known."""
        for entry in self.thresholds:
            if math.isclose(entry.far, far, rel_tol=1e-6):
                return entry.value
        known = ", ".join(f"{entry.far:g}" for entry in self.thresholds) or "none"
        raise FluxGuardError(
            f"{self.name} has no threshold at false accept rate {far:g} (known: {known}); measure "
            f"one on pictures of strangers with ‹run calibrate FILE --faces DIR›."
        )
