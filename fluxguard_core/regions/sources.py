"""Where the regions of a wish are in one picture: every source behind one signature.

A source takes a picture, a wish and perhaps the source prompt, and answers with a mask that says what was
found and what was not. What it finds is never empty and never everything: both are errors that tell what was
looked for, what is there and what would help.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import FluxGuardError
from .found import Found, completed, not_full
from .geometry import FACE_IDS, UNKNOWN, FaceFrame, face_frame, isin, labels_from_landmarks
from .mask import FaceParser
from .morphology import dilate
from .parsers import LABELS
from .places import labels_from_points
from .segmentation import Segmenter, phrase_of
from .shapes import RULES, EmptyMask
from .words import Understanding, UnknownWords, growing, message, understand

IDENTITY = ("eyes", "eyebrows", "nose", "mouth")
"""What people and recognisers know a face by."""

OUTLINED = (
    "eyes",
    "pupils",
    "eyeshadow",
    "eyebrows",
    "nose",
    "lips",
    "mouth",
    "smile",
    "expression",
    "cheeks",
    "chin",
    "makeup",
    "skin",
    "face",
    "face_shape",
)
"""Regions whose edges a face mesh draws; the others lie partly where it shows nothing."""

MaskSource = Callable[[Tensor, str, str | None], Found]
"""Picture [3,H,W] in [0,1], wish, source prompt or None -> what was found."""

Reader = Callable[[str, str | None], Understanding]
"""Wish, source prompt -> regions."""


def read_words(wish: str, source: str | None = None) -> Understanding:
    """The lexicon alone. Raises UnknownWords where the wish names nothing."""
    found = understand(wish, source)
    if not found.regions:
        raise UnknownWords(*message(wish, found))
    return found


def parser_source(
    parser: FaceParser,
    name: str = "parser",
    *,
    landmarks: Tensor | None = None,
    keep_identity: bool = False,
    read: Reader = read_words,
) -> MaskSource:
    """Regions on a parser's labels; a parser with `read` (see NetworkParser) also tells how sure it is.

    keep_identity: eyes, brows, nose and mouth stay out of the mask unless the wish names them.
    """

    def find(picture: Tensor, wish: str, source: str | None = None) -> Found:
        probability: Tensor | None = None
        detailed = getattr(parser, "read", None)
        if detailed is not None:
            labels, probability = detailed(picture)
        else:
            labels = parser(picture)
        return _on_labels(
            labels, landmarks, read(wish, source), wish, name, keep_identity, probability
        )

    return find


def landmark_source(
    landmarks: Tensor, *, keep_identity: bool = False, read: Reader = read_words
) -> MaskSource:
    """Regions drawn from 5, 68 or 468/478 landmarks [N,2]; they show no hair, clothes or background.

    Five points give an average face's parts at their places, not this face's outlines.
    """

    def find(picture: Tensor, wish: str, source: str | None = None) -> Found:
        height, width = picture.shape[-2:]
        draw = labels_from_points if len(landmarks) == 5 else labels_from_landmarks
        labels = draw(landmarks, height, width).to(picture.device)
        return _on_labels(
            labels, landmarks, read(wish, source), wish, "landmarks", keep_identity, None
        )

    return find


def outlines_first(mesh: MaskSource, other: MaskSource) -> MaskSource:
    """`OUTLINED` regions by a face mesh, the rest of the wish by `other`, which is asked only where one is left."""

    def find(picture: Tensor, wish: str, source: str | None = None) -> Found:
        try:
            drawn = mesh(picture, wish, source)
        except UnknownWords:
            raise
        except FluxGuardError:
            return other(picture, wish, source)
        parts = {name: part for name, part in (drawn.regions or {}).items() if name in OUTLINED}
        if not parts:
            return other(picture, wish, source)
        kept = replace(
            drawn,
            mask=torch.stack(list(parts.values())).any(0).float()[None, None],
            names=tuple(parts),
            shares={name: drawn.shares[name] for name in parts},
            missing=(*drawn.missing, *(name for name in drawn.names if name not in parts)),
            regions=parts,
        )
        if not kept.missing:
            return kept
        try:
            return completed(kept, other(picture, wish, source))
        except FluxGuardError:
            return kept

    return find


def words_source(
    segment: Segmenter, name: str = "clipseg", *, read: Reader = read_words, least: float = 0.4
) -> MaskSource:
    """Regions by a text segmentation: where its probability for a region's phrase is at least `least`."""

    def find(picture: Tensor, wish: str, source: str | None = None) -> Found:
        known = read(wish, source)
        maps = segment(picture, [phrase_of(region) for region in known.regions])
        regions = {region: seen >= least for region, seen in zip(known.regions, maps, strict=True)}
        best = maps.amax(0)
        return _joined(regions, known, wish, name, best, None, ())

    return find


def auto_source(**sources: MaskSource | None) -> MaskSource:
    """Region by region, the first of the sources that is connected and finds it.

    Given best first; None is one that is not connected; a later one is asked only for what is missing. Raises
    what the first one raised where none finds anything, and FluxGuardError where none is connected.
    """
    connected = [source for source in sources.values() if source is not None]
    if not connected:
        raise FluxGuardError(
            "Words need to know where the parts of the face are, and nothing that shows them is connected.",
            "Give a face parser, landmarks, or a mask.",
        )

    def find(picture: Tensor, wish: str, source: str | None = None) -> Found:
        best: Found | None = None
        failures: list[FluxGuardError] = []
        for one in connected:
            try:
                found = one(picture, wish, source)
            except UnknownWords:
                raise
            except FluxGuardError as error:
                failures.append(error)
                continue
            best = found if best is None else completed(best, found)
            if not best.missing:
                break
        if best is None:
            raise failures[0]
        return not_full(best)

    return find


def _on_labels(
    labels: Tensor,
    landmarks: Tensor | None,
    known: Understanding,
    wish: str,
    name: str,
    keep_identity: bool,
    probability: Tensor | None,
) -> Found:
    frame = face_frame(labels, landmarks)
    larger = growing(wish)
    regions = {
        region: _larger(RULES[region](labels, frame), region in larger, region, frame)
        for region in known.regions
    }
    regions = {
        region: mask if _is_there(region, mask, labels) else torch.zeros_like(mask)
        for region, mask in regions.items()
    }
    if keep_identity:
        named = {"expression": IDENTITY, "face": (), "smile": ("mouth",), "lips": ("mouth",)}
        asked = {part for region in regions for part in named.get(region, (region,))}
        inner = [RULES[part](labels, frame) for part in IDENTITY if part not in asked]
        outside = ~torch.stack(inner).any(0) if inner else torch.ones_like(labels, dtype=torch.bool)
        regions = {region: mask & outside for region, mask in regions.items()}
    present = tuple(LABELS[i] for i in labels.unique().tolist() if i != UNKNOWN and i < len(LABELS))
    return _joined(regions, known, wish, name, probability, labels, present)


# A parser leaves a few stray pixels of a class that is not there; these regions are never so small.
_BROAD = ("hair", "clothes", "background", "neck", "necklace", "ears")
STRAY = 0.01


def _is_there(region: str, mask: Tensor, labels: Tensor) -> bool:
    """Whether a region is more than stray pixels beside the face."""
    return region not in _BROAD or float(mask.sum()) >= STRAY * float(isin(labels, *FACE_IDS).sum())


_GROWING = ("hat", "hairstyle", "bangs", "beard", "eyeglasses", "earrings", "necklace")
# An assumption, not a measurement: how far a big thing reaches beyond an ordinary one, in distances of the eyes.
ROOM = 1 / 3


def _larger(mask: Tensor, large: bool, region: str, frame: FaceFrame) -> Tensor:
    """A region with room for a thing that is larger than what is there."""
    if not large or region not in _GROWING:
        return mask
    step = (frame.u[0, 1] - frame.u[0, 0], frame.v[0, 1] - frame.v[0, 0])
    eyes = 1.0 / float(step[0] ** 2 + step[1] ** 2) ** 0.5
    return dilate(mask, 2 * ROOM * eyes)


def _joined(
    regions: dict[str, Tensor],
    known: Understanding,
    wish: str,
    name: str,
    probability: Tensor | None,
    labels: Tensor | None,
    present: tuple[str, ...],
) -> Found:
    names = tuple(region for region, mask in regions.items() if bool(mask.any()))
    missing = tuple(region for region in regions if region not in names)
    if not names:
        raise EmptyMask(*_nothing(wish, missing, name, present, labels))
    mask = torch.stack([regions[region] for region in names]).any(0)
    sure = None if probability is None else float(probability[mask].mean())
    found = Found(
        mask.float()[None, None],
        names,
        {region: float(regions[region].float().mean()) for region in names},
        missing,
        sure,
        name,
        known.how,
        labels,
        {region: regions[region] for region in names},
    )
    return not_full(found)


def _nothing(
    wish: str, missing: tuple[str, ...], name: str, present: tuple[str, ...], labels: Tensor | None
) -> tuple[str, str]:
    """Message and remedy where no region of the wish is in the picture."""
    shown = f" It found: {', '.join(present)}." if present else ""
    text = (
        f"Looked for {', '.join(missing)} ({wish!r}) and found no pixel of it by {name}, so nothing would "
        f"be edited.{shown}"
    )
    if labels is not None and bool((labels == UNKNOWN).any()):
        return text, (
            "Landmarks outline the face only: give a face parser, or concept attention of the model itself, which "
            "also show hair, hat, clothes and background, or a mask."
        )
    return text, "Name another region, choose another parser, or draw the mask by hand."
