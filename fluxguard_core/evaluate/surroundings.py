"""Recognisers asked about the face and its surroundings: what it costs grows with the face, not with the photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..faces.face import Face, FaceFinder, nearest
from ..pictures.face_crop import Box
from ..recognition.encoder import FaceEncoder
from ..resampling import bicubic
from .similarity import Recognition, Shot, recognise, share
from .transforms import SHARING, Transform

_REACH = 1.0  # of the face box's longer side, on every side of it
_BLOCK = 16  # JPEG's blocks of colour: a cut on their grid is recompressed as the whole would be
LARGEST = 1024  # sharing is tried on surroundings of at most so many pixels a side


def surroundings(face: Face, size: tuple[int, int]) -> Box:
    """The part of a picture of ``size`` = (height, width) that holds a face and its surroundings.

    All of it where the face has no landmarks, for then recognisers look at the whole frame.
    """
    if face.landmarks is None:
        return 0, 0, size[1], size[0]
    x0, y0, x1, y1 = face.box
    reach = _REACH * max(x1 - x0, y1 - y0)
    height, width = size
    left, top = (max(0, int((edge - reach) // _BLOCK) * _BLOCK) for edge in (x0, y0))
    right, bottom = (-int(-(edge + reach) // _BLOCK) * _BLOCK for edge in (x1, y1))
    return (
        min(left, max(0, width - _BLOCK)),
        min(top, max(0, height - _BLOCK)),
        max(_BLOCK, min(right, width)),
        max(_BLOCK, min(bottom, height)),
    )


def measure_face(
    members: Sequence[tuple[FaceEncoder, bool]],
    pictures: tuple[Tensor, Tensor, Tensor],
    face: Face,
    find_faces: FaceFinder | None,
    *,
    second: Shot | None = None,
    targets: Mapping[str, Tensor] | None = None,
    transforms: Sequence[Transform] = SHARING,
    far: float = 1e-2,
) -> tuple[Recognition, ...]:
    """Every recogniser's results on a face, looked for anew in each picture.

    Args:
        members: recognisers, and whether each was attacked.
        pictures: original, edited and protected surroundings [1, 3, h, w], as they are saved.
        face: where it is in the original's pixels.
        find_faces: None takes the face where it is known.
        targets: the identity aimed at by recogniser name.
    """
    original, edited, protected = (found_anew(picture, face, find_faces) for picture in pictures)
    shared = share(_at_most(edited, LARGEST), _at_most(protected, LARGEST), transforms)
    return tuple(
        recognise(
            encoder,
            original,
            edited,
            protected,
            attacked=attacked,
            second=second,
            target=(targets or {}).get(encoder.name),
            shared=shared,
            far=far,
        )
        for encoder, attacked in members
    )


def found_anew(picture: Tensor, known: Face, find_faces: FaceFinder | None) -> Shot:
    """A picture [1, 3, H, W] with a face's landmarks found anew, as a stranger would meet it.

    A face that is no longer found is looked at where it was: the protection may hide it from a detector, not
    from a tracker that knows where it was.
    """
    found = None if find_faces is None else nearest(find_faces(picture[0]), known)
    return Shot(picture, (found or known).landmarks)


def _at_most(shot: Shot, side: int) -> Shot:
    """A shot scaled down to at most ``side`` pixels a side."""
    height, width = shot.image.shape[-2:]
    if max(height, width) <= side:
        return shot
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    picture = bicubic(shot.image, size).clamp(0, 1)
    points = shot.landmarks
    if points is not None:
        by = points.new_tensor([size[1] / width, size[0] / height])
        points = (points + 0.5) * by - 0.5
    return Shot(picture, points)
