"""What Text to Mask asks where regions are: face parsers, the MODEL itself, landmarks, text segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.faces.face import choose
from ..fluxguard_core.mini.faces import parse_face
from ..fluxguard_core.mini.world_check import world_of
from ..fluxguard_core.regions import (
    EmptyMask,
    FaceParser,
    Found,
    MaskSource,
    Meaning,
    NoFace,
    Segmenter,
    Understanding,
    UnknownWords,
    auto_source,
    bisenet_parser,
    clipseg,
    concept_source,
    joined,
    landmark_source,
    outlines_first,
    parser_source,
    read_words,
    segformer_parser,
    understand_with,
    words_source,
)
from ..fluxguard_core.regions.meaning import meaning
from . import folders, host
from .concepts import Concepts
from .faces import Faces, find_all, for_batch, installed_finder, shifted

Read = Callable[[str, str | None], Understanding]


def sources_for(
    picture: Tensor,
    faces: Faces | None,
    concepts: Concepts | None,
    clip: Any,
    keep_identity: bool,
) -> list[MaskSource]:
    """For every picture of [B, 3, H, W] the sources that are connected or installed, best first."""
    read = reader(clip)
    make = partial(_source, picture, faces, concepts, keep_identity, read)
    return [make(number) for number in range(len(picture))]


def _source(
    picture: Tensor,
    faces: Faces | None,
    concepts: Concepts | None,
    keep_identity: bool,
    read: Read,
    number: int,
) -> MaskSource:
    meshes, points = _face_in(picture, faces, number)
    if faces is not None and faces.meshes and not meshes:
        return _faceless(number)
    named: dict[str, Any] = {"keep_identity": keep_identity, "read": read}
    found: dict[str, MaskSource] = {}
    for name, parser in _parsers(picture[number], faces):
        found[name] = parser_source(parser, name, **named)
    if concepts is not None:
        attend = concepts.attention(number, len(picture))
        found["concepts"] = concept_source(
            attend, lambda _: points, phrases=concepts.phrases, **named
        )
    if meshes:
        mesh = found["landmarks"] = _of_all([landmark_source(one, **named) for one in meshes])
        if concepts is not None:
            found["concepts"] = outlines_first(mesh, found["concepts"])
    elif points is not None:
        found["landmarks"] = landmark_source(points, **named)
    segmenter = _segmenter()
    if segmenter is not None:
        found["clipseg"] = words_source(segmenter, read=read)
    if not found:
        raise FluxGuardError(
            "Words need to know where the parts of the face are, and nothing here knows it.",
            "Connect Concept Attention to ‹give concepts›, or Detect Face Landmarks (MediaPipe) to Face Picker and that "
            "to ‹give faces›, or install a face parser (‹run models download bisenet›).",
        )
    return auto_source(**found)


def _face_in(
    picture: Tensor, faces: Faces | None, number: int
) -> tuple[list[Tensor], Tensor | None]:
    """Meshes of the chosen faces, and landmarks of the first, in the picture's pixels.

    Without FACES the largest face's landmarks, where YuNet is installed and finds one.
    """
    if faces is None:
        find = installed_finder()
        seen = [] if find is None else find_all(picture[number : number + 1], find)[0]
        return [], choose(seen, "largest")[0].landmarks if seen else None
    batch, size = len(picture), (picture.shape[-2], picture.shape[-1])
    shift = shifted(faces.size, size)
    meshes = (
        [mesh - shift for mesh in for_batch(faces.meshes, batch)[number]] if faces.meshes else []
    )
    points = [face.landmarks for face in for_batch(faces.chosen, batch)[number]]
    first = next((p for p in points if p is not None), None)
    return meshes, None if first is None else first.float().cpu() - shift


def _faceless(number: int) -> MaskSource:
    def find(picture: Tensor, wish: str, source: str | None = None) -> Found:
        read_words(wish, source)
        raise NoFace(
            f"No face was found in picture {number}. Use a picture with a larger, unobstructed face, or let the "
            "detector find more."
        )

    return find


def _of_all(sources: Sequence[MaskSource]) -> MaskSource:
    """The same regions on several faces."""

    def find(picture: Tensor, wish: str, source: str | None = None) -> Found:
        return joined([one(picture, wish, source) for one in sources])

    return find


def _parsers(picture: Tensor, faces: Faces | None) -> list[tuple[str, FaceParser]]:
    """Face parsers that know such a picture; photos and drawn portraits have their own."""
    if faces is not None and faces.parse is not None:
        return [("miniature", faces.parse)]
    if faces is None and world_of(picture) == "drawn":
        return [("miniature", parse_face)]
    known = (("bisenet", _bisenet()), ("segformer", _segformer()))
    return [(name, parser) for name, parser in known if parser is not None]


def _bisenet() -> FaceParser | None:
    path = folders.installed("bisenet")
    return None if path is None else _loaded("bisenet", str(path))


def _segformer() -> FaceParser | None:
    path = folders.installed("segformer-face")
    return None if path is None else _loaded("segformer", str(path.parent))


def _segmenter() -> Segmenter | None:
    path = folders.installed("clipseg")
    return None if path is None else _loaded("clipseg", str(path.parent))


@cache
def _loaded(kind: str, path: str) -> Any:
    makers: dict[str, Callable[[str], Any]] = {
        "bisenet": bisenet_parser,
        "segformer": segformer_parser,
        "clipseg": clipseg,
    }
    with host.ordinary_tensors():
        return makers[kind](path)


_MEANINGS: WeakKeyDictionary[Any, Meaning] = WeakKeyDictionary()


def reader(clip: Any) -> Read:
    """The lexicon, and where it ends the meaning in a CLIP's own vectors, if one is connected."""
    if clip is None:
        return read_words

    def read(wish: str, source: str | None = None) -> Understanding:
        try:
            return read_words(wish, source)
        except UnknownWords:
            known = _by_meaning(clip, wish, source)
            if known is None or not known.regions:
                raise
            return known

    return read


def _by_meaning(clip: Any, wish: str, source: str | None) -> Understanding | None:
    """What the CLIP makes of a wish; None where it has no encoder for that, as FLUX.2's and the miniature's."""
    encode = host.text_vectors(clip)
    if encode is None:
        return None
    network = clip.cond_stage_model
    if network not in _MEANINGS:
        _MEANINGS[network] = meaning(encode)
    return understand_with(replace(_MEANINGS[network], encode=encode), wish, source)


def found_in_each(
    picture: Tensor, sources: Sequence[MaskSource], text: str, source: str | None
) -> list[Found | FluxGuardError]:
    """What was found in every picture; in a batch the reason where a picture has no such face or part.

    Raises it where no picture has one.
    """
    found: list[Found | FluxGuardError] = []
    for one, look in zip(picture, sources, strict=True):
        try:
            found.append(look(one, text, source))
        except (NoFace, EmptyMask) as failure:
            found.append(failure)
    failures = [one for one in found if isinstance(one, FluxGuardError)]
    if len(failures) == len(found):
        raise failures[0]
    return found


def empty_like(picture: Tensor) -> Tensor:
    """A mask [1, 1, H, W] under which nothing changes."""
    return torch.zeros_like(picture[None, :1])
