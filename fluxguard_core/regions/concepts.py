"""Concept attention as a source of masks: FLUX's own sense of where words are, brought to the pixels.

An attention tells how near each part's word is to each place (`backends.flux_concepts`). That is coarse: a token
is 16 pixels. So the parts' usual places on the face, where its points are known, and the picture's colours have
their say, and what comes out are labels like a face parser's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..resampling import shrink
from .found import Found
from .places import small_places, usual_places
from .refine import colour_posterior, guided
from .sources import MaskSource, Reader, parser_source, read_words
from .words import understand

Attention = Callable[[Tensor, Sequence[str]], Tensor]
"""Picture [3,H,W] in [0,1], N phrases -> scores [N,H,W], comparable with each other; more is nearer."""

Points = Callable[[Tensor], Tensor | None]
"""Picture [3,H,W] -> landmarks of its face [N,2], None where there is none."""

PARTS: dict[str, int] = {
    "background": 0,
    "skin": 1,
    "eyes": 4,
    "glasses": 6,
    "lips": 12,
    "clothes": 16,
    "hair": 17,
    "hat": 18,
}
"""Parts and their CelebAMask-HQ ids; eyes become two by their side."""
PHRASES: dict[str, str] = {name: name for name in PARTS}
ALWAYS = ("background", "skin", "eyes", "lips", "clothes", "hair")
# Worn or not: looked for only where a prompt speaks of them, since something always scores best.
_WORN = {"hat": "hat", "eyeglasses": "glasses"}
SHARPNESS = {True: 0.5, False: 4.0}
"""Weight of the scores with and without the usual places beside them; chosen on drawn portraits."""
WORKING = 256
"""Longest side in pixels at which colours are compared; larger pictures follow by the guided filter."""


@dataclass(frozen=True, eq=False)
class ConceptParser:
    """A FaceParser out of an attention to words.

    phrases: a phrase for each part that the text encoder knows; others are not looked for. points: where the
    face is.
    """

    attend: Attention
    phrases: Mapping[str, str]
    points: Points
    worn: frozenset[str] = frozenset()

    def asked(self, *texts: str | None) -> ConceptParser:
        """The same, looking for what may be worn where one of the texts names it."""
        named = {region for text in texts if text for region in understand(text).regions}
        worn = frozenset(part for region, part in _WORN.items() if region in named)
        return ConceptParser(self.attend, self.phrases, self.points, worn)

    def __call__(self, picture: Tensor) -> Tensor:
        """Labels [H,W] uint8 of a picture [3,H,W], RGB in [0,1]."""
        return self.read(picture)[0]

    @torch.no_grad()
    def read(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Labels [H,W] uint8 and the probability [H,W] of each."""
        names = [name for name in self.phrases if name in ALWAYS or name in self.worn]
        if "glasses" in names:  # they hide the eyes, as CelebAMask-HQ labels them
            names.remove("eyes")
        scores = self.attend(picture, [self.phrases[name] for name in names]).float().cpu()
        shown = picture.detach().float().cpu()
        landmarks = self.points(picture)
        evidence = SHARPNESS[landmarks is not None] * scores
        if landmarks is not None:
            usual = usual_places(landmarks, *shown.shape[-2:])
            evidence = evidence + torch.stack([_log_place(usual[name], name) for name in names])
        chance = _refined(shown, evidence)
        sure, best = chance.max(0)
        labels = torch.tensor([PARTS[name] for name in names], dtype=torch.uint8)[best]
        return _parted(labels, landmarks).to(picture.device), sure.to(picture.device)


def _log_place(usual: Tensor, name: str) -> Tensor:
    """Colour may find hair or clothes where they seldom are; eyes and lips stay where they belong."""
    return usual.clamp_min(1e-6 if name in ("eyes", "lips") else 1e-3).log()


def _refined(picture: Tensor, evidence: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    longest = max(height, width)
    if longest <= WORKING:
        return colour_posterior(picture, evidence)
    size = (max(1, height * WORKING // longest), max(1, width * WORKING // longest))
    small = F.interpolate(picture[None], size, mode="area")[0]
    coarse = shrink(evidence[None], size)[0]
    chance = colour_posterior(small, coarse)
    large = F.interpolate(chance[None], (height, width), mode="bilinear")[0]
    chance = guided(large, picture, max(1, round(1.5 * longest / WORKING))).clamp_min(0)
    return chance / chance.sum(0, keepdim=True).clamp_min(1e-6)


def _two_eyes(labels: Tensor, right: Tensor) -> Tensor:
    """Eyes beyond the face's middle line are the other eye."""
    return torch.where((labels == PARTS["eyes"]) & right, torch.full_like(labels, 5), labels)


def _parted(labels: Tensor, landmarks: Tensor | None) -> Tensor:
    """Two eyes, and where the face's points are known nose, ears and neck told from the skin by their place."""
    eyes = labels == PARTS["eyes"]
    if landmarks is None:
        x = torch.arange(labels.shape[1], dtype=torch.float32).expand(labels.shape)
        return _two_eyes(labels, x > x[eyes].mean()) if bool(eyes.any()) else labels
    right, places = small_places(landmarks, *labels.shape)
    labels = _two_eyes(labels, right)
    skin = labels == PARTS["skin"]
    for label, place in places.items():
        labels = torch.where(skin & place, torch.full_like(labels, label), labels)
    return labels


def concept_source(
    attend: Attention,
    points: Points,
    *,
    phrases: Mapping[str, str] = PHRASES,
    keep_identity: bool = False,
    read: Reader = read_words,
) -> MaskSource:
    """Regions by concept attention; `points` says where the face is (None: nobody knows).

    A hat and glasses are looked for where the wish or the source prompt names them.
    """
    parser = ConceptParser(attend, phrases, points)

    def find(picture: Tensor, wish: str, source: str | None = None) -> Found:
        found = parser_source(
            parser.asked(wish, source),
            "concept attention",
            landmarks=points(picture),
            keep_identity=keep_identity,
            read=read,
        )
        return found(picture, wish, source)

    return find
