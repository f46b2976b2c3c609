"""Everything a protection needs to know besides the photo and the wishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..backends.flux import FluxStack
from ..faces.face import FaceFinder
from ..flow import Storage
from ..protect.perceptual import PerceptualDistance
from ..protect.presets import Preset
from ..recognition.ensemble import Ensemble
from ..regions import PHRASES, FaceParser
from ..worlds import Knower, known_by


@dataclass(frozen=True, eq=False)
class Models:
    """Everything a protection needs.

    Args:
        find_faces: where faces are in a photo of any size.
        parse_face: labels a face's parts; without it words are found by the model itself (concept attention).
        phrases: the parts of a portrait in words that the model's text encoder knows.
        describe: a picture's caption, for models that have someone who can tell; else the user writes it.
        complete: (source prompt, prompt) -> the full target prompt; where prompts need not be full.
        size: side in pixels of the square that larger photos are worked on in.
        guidance: the model's own best guidance for edits, which only the paper preset overrules; None takes
            the preset's.
    """

    name: str
    stack: FluxStack
    ensemble: Ensemble
    find_faces: FaceFinder
    perceptual: PerceptualDistance
    parse_face: FaceParser | None = None
    phrases: Mapping[str, str] = field(default_factory=lambda: PHRASES)
    describe: Callable[[Tensor], str] | None = None
    complete: Callable[[str, str], str] | None = None
    size: int = 512
    storage: Storage = field(default_factory=Storage)
    guidance: float | None = None

    @property
    def knowers(self) -> tuple[Knower, ...]:
        """Everything that works on a photo, with what it knows."""
        return (
            Knower("the model", self.stack.world, judges=True),
            Knower("the detector", known_by(self.find_faces)),
            Knower("the face parser", known_by(self.parse_face)),
            *(Knower(e.name, e.world, judges=True) for e in self.ensemble.members),
        )

    def guidance_of(self, preset: Preset) -> float:
        """Guidance of the generation."""
        own = None if preset.name == "paper" else self.guidance
        return preset.guidance if own is None else own
