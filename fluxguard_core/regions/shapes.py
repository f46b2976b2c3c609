"""The shape of each region on one face: rules of the released code, in the face's own axes.

Every rule maps (labels, frame) to the pixels that an edit of that region may touch. For things that
may not be there yet (eyeglasses, hat, beard, bangs, earrings, another hair style) the region is
where the thing will be. What differs from the released `auto_mask.py`: `skin` exists with
landmarks, eyeglasses keep the lenses (tinted glass needs them; a token is wider than the rim),
rules turn with the head, and an empty region is an error instead of a silent no-op.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import FluxGuardError
from .geometry import FACE_IDS, UNKNOWN, FaceFrame, face_frame, isin
from .morphology import dilate, erode

Rule = Callable[[Tensor, FaceFrame], Tensor]


class EmptyMask(FluxGuardError):
    """A mask without a single pixel: an edit under it would change nothing."""


def _grow(mask: Tensor, frame: FaceFrame, size: float) -> Tensor:
    return dilate(mask, size * frame.unit)


def _skin(labels: Tensor, frame: FaceFrame) -> Tensor:
    return isin(labels, 1, 10)


def _face(labels: Tensor, frame: FaceFrame) -> Tensor:
    return erode(_grow(isin(labels, *FACE_IDS), frame, 12), 12 * frame.unit)


def _eye_balls(labels: Tensor, frame: FaceFrame) -> Tensor:
    found = isin(labels, 4, 5)
    drawn = frame.ellipse(-0.5, 0.0, 0.26, 0.13) | frame.ellipse(0.5, 0.0, 0.26, 0.13)
    # One closed or hidden eye (glasses, hair) must not leave half of an edit out.
    both = all(bool(isin(labels, label).any()) for label in (4, 5))
    return found if both else found | drawn


def _eyes(labels: Tensor, frame: FaceFrame) -> Tensor:
    return _grow(_grow(_eye_balls(labels, frame), frame, 12), frame, 12)


def _pupils(labels: Tensor, frame: FaceFrame) -> Tensor:
    eyes = _eye_balls(labels, frame)
    result = torch.zeros_like(eyes)
    for side in (frame.u < 0, frame.u >= 0):
        eye = eyes & side
        if eye.any():
            u, v = frame.u[eye], frame.v[eye]
            half_u, half_v = 0.2 * (u.max() - u.min()), 0.5 * (v.max() - v.min())
            middle_u, middle_v = (u.max() + u.min()) / 2, (v.max() + v.min()) / 2
            result |= eye & frame.box(
                float(middle_u - half_u),
                float(middle_u + half_u),
                float(middle_v - half_v),
                float(middle_v + half_v),
            )
    return result


def _eyeshadow(labels: Tensor, frame: FaceFrame) -> Tensor:
    eyes, skin = _eye_balls(labels, frame), isin(labels, 1, 2, 3, 6)
    lids = frame.ellipse(-0.5, -0.14, 0.4, 0.32) | frame.ellipse(0.5, -0.14, 0.4, 0.32)
    around = _grow((_grow(eyes, frame, 18) | lids) & skin, frame, 8) & (skin | eyes)
    # The rim of the eye belongs to the lid; only what is surely eyeball stays out.
    return around & ~erode(isin(labels, 4, 5), 12 * frame.unit)


def _eyebrows(labels: Tensor, frame: FaceFrame) -> Tensor:
    found = isin(labels, 2, 3)
    if not found.any():
        height = frame.brow + 0.1
        found = frame.ellipse(-0.5, height, 0.38, 0.1) | frame.ellipse(0.5, height, 0.38, 0.1)
    return _grow(found, frame, 6)


def _eyeglasses(labels: Tensor, frame: FaceFrame) -> Tensor:
    band = frame.box(frame.left, frame.right, -0.2, 0.2) | frame.box(-1.05, 1.05, -0.42, 0.48)
    return band | _grow(isin(labels, 6), frame, 10)


def _nose(labels: Tensor, frame: FaceFrame) -> Tensor:
    return _grow(isin(labels, 10), frame, 6)


def _mouth(labels: Tensor, frame: FaceFrame) -> Tensor:
    return _grow(isin(labels, 11, 12, 13), frame, 6)


def _lips(labels: Tensor, frame: FaceFrame) -> Tensor:
    # The released 6 pixels cut off the lips' soft border; the opening stays out, its edge does not.
    return _grow(isin(labels, 12, 13), frame, 12) & ~erode(isin(labels, 11), 6 * frame.unit)


def _smile(labels: Tensor, frame: FaceFrame) -> Tensor:
    wide = frame.box(
        frame.mouth_left - 0.25,
        frame.mouth_right + 0.25,
        frame.mouth_top - 0.4,
        frame.mouth_bottom + 0.25,
    )
    return _mouth(labels, frame) | (wide & isin(labels, *FACE_IDS))


def _expression(labels: Tensor, frame: FaceFrame) -> Tensor:
    return _eyebrows(labels, frame) | _eyes(labels, frame) | _smile(labels, frame)


def _cheeks(labels: Tensor, frame: FaceFrame) -> Tensor:
    bottom = frame.nose + 0.8 * (frame.mouth_bottom - frame.nose)
    sides = frame.box(frame.left, frame.right, 0.4 * frame.nose, bottom)
    parts = _nose(labels, frame) | _mouth(labels, frame)
    return sides & isin(labels, 1) & ~parts


def _chin(labels: Tensor, frame: FaceFrame) -> Tensor:
    middle = (frame.mouth_top + frame.mouth_bottom) / 2
    below = frame.box(0.85 * frame.left, 0.85 * frame.right, middle, frame.chin + 0.1)
    return below & isin(labels, 1) & ~isin(labels, 11, 12, 13)


def _beard(labels: Tensor, frame: FaceFrame) -> Tensor:
    # A beard that is not there yet grows over jaw and upper lip and some way beyond the chin.
    lower = frame.box(frame.left - 0.1, frame.right + 0.1, frame.nose - 0.15, frame.chin + 0.3)
    sideburns = frame.box(frame.left - 0.15, 0.6 * frame.left, -0.15, frame.nose) | frame.box(
        0.6 * frame.right, frame.right + 0.15, -0.15, frame.nose
    )
    near = _grow(isin(labels, *FACE_IDS), frame, 30)
    allowed = isin(labels, 0, 1, 7, 8, 14, 16, 17) & near
    lips = erode(isin(labels, 11, 12, 13), 6 * frame.unit)
    return (lower & near & ~isin(labels, 10) & ~lips) | (sideburns & allowed)


def _brow_span(frame: FaceFrame, margin: float) -> tuple[float, float]:
    return 0.85 * frame.left - margin, 0.85 * frame.right + margin


def _forehead(labels: Tensor, frame: FaceFrame) -> Tensor:
    low, high = _brow_span(frame, 0.0)
    return frame.box(low, high, -4.0, frame.brow) & isin(labels, 1)


def _forehead_and_hair(labels: Tensor, frame: FaceFrame) -> Tensor:
    low, high = _brow_span(frame, 0.15)
    return frame.box(low, high, -1.5, frame.brow + 0.2) & isin(labels, 1, 2, 3, 17)


def _bangs(labels: Tensor, frame: FaceFrame) -> Tensor:
    return _grow(_forehead_and_hair(labels, frame), frame, 6)


def _hairline(labels: Tensor, frame: FaceFrame) -> Tensor:
    hair = isin(labels, 17)
    edge = dilate(hair, 3) & ~erode(hair, 3)
    return _grow(edge & _grow(_forehead(labels, frame), frame, 14), frame, 10)


def _hair(labels: Tensor, frame: FaceFrame) -> Tensor:
    return _grow(isin(labels, 17), frame, 8)


def _crown(labels: Tensor, frame: FaceFrame) -> float:
    """v of the top of the head: of the hair or the face, and -1.7 where both are covered."""
    head = isin(labels, 17, *FACE_IDS) & (frame.u.abs() < 1.2)
    return min(-1.2, float(frame.v[head].min())) if head.any() else -1.7


def _hairstyle(labels: Tensor, frame: FaceFrame) -> Tensor:
    # Hair as it may become: a cap round the skull and falls beside the face down to the shoulders.
    half_width = max(-frame.left, frame.right)
    cap = frame.ellipse(0.0, -0.1, half_width + 0.65, -_crown(labels, frame) + 0.2)
    falls = frame.box(-half_width - 0.65, half_width + 0.65, 0.0, frame.chin + 0.9)
    inner = frame.ellipse(0.0, 0.55, 0.8 * half_width, frame.chin - 0.4)
    allowed = (cap & (frame.v < 0.3)) | (falls & (frame.u.abs() > 0.7 * half_width))
    return (allowed & ~inner & (labels != UNKNOWN)) | _hair(labels, frame)


def _hat(labels: Tensor, frame: FaceFrame) -> Tensor:
    half_width = max(-frame.left, frame.right)
    reach = half_width + 0.8
    above = frame.box(-reach, reach, _crown(labels, frame) - 0.6, -0.25)
    return above | _grow(isin(labels, 18), frame, 12)


def _makeup(labels: Tensor, frame: FaceFrame) -> Tensor:
    return _eyeshadow(labels, frame) | _lips(labels, frame) | _cheeks(labels, frame)


def _face_shape(labels: Tensor, frame: FaceFrame) -> Tensor:
    parts = _expression(labels, frame) | _nose(labels, frame)
    return isin(labels, 1) & ~parts


def _ears(labels: Tensor, frame: FaceFrame) -> Tensor:
    return _grow(isin(labels, 7, 8), frame, 6)


def _earrings(labels: Tensor, frame: FaceFrame) -> Tensor:
    lobes = _grow(isin(labels, 7, 8) & (frame.v > 0.1), frame, 16) & (frame.v > 0.1)
    hidden = frame.box(frame.left - 0.35, frame.left + 0.05, 0.2, 1.3) | frame.box(
        frame.right - 0.05, frame.right + 0.35, 0.2, 1.3
    )
    return lobes | hidden | _grow(isin(labels, 9), frame, 10)


def _neck(labels: Tensor, frame: FaceFrame) -> Tensor:
    return isin(labels, 14, 15)


def _clothes(labels: Tensor, frame: FaceFrame) -> Tensor:
    return isin(labels, 16)


def _background(labels: Tensor, frame: FaceFrame) -> Tensor:
    return isin(labels, 0)


RULES: dict[str, Rule] = {
    "eyes": _eyes,
    "pupils": _pupils,
    "eyeshadow": _eyeshadow,
    "eyebrows": _eyebrows,
    "eyeglasses": _eyeglasses,
    "nose": _nose,
    "lips": _lips,
    "mouth": _mouth,
    "smile": _smile,
    "expression": _expression,
    "cheeks": _cheeks,
    "chin": _chin,
    "beard": _beard,
    "forehead": _forehead,
    "hairline": _hairline,
    "bangs": _bangs,
    "hairstyle": _hairstyle,
    "hair": _hair,
    "makeup": _makeup,
    "skin": _skin,
    "face_shape": _face_shape,
    "face": _face,
    "ears": _ears,
    "earrings": _earrings,
    "neck": _neck,
    "necklace": _neck,
    "hat": _hat,
    "clothes": _clothes,
    "background": _background,
}


def region_mask(region: str, labels: Tensor, landmarks: Tensor | None = None) -> Tensor:
    """Pixels of one region: bool [H,W].

    region: a name of `RULES`; labels: [H,W] CelebAMask-HQ ids; landmarks: [5|68|468|478,2] pixels,
    optional, fix the face's axes. Raises NoFace, EmptyMask, and FluxGuardError for another name.
    """
    if region not in RULES:
        raise FluxGuardError(f"Unknown region {region!r}; known are: {', '.join(sorted(RULES))}.")
    if labels.ndim != 2:
        raise FluxGuardError(f"Labels must be [H,W], one picture; got {tuple(labels.shape)}.")
    mask = RULES[region](labels, face_frame(labels, landmarks))
    if not mask.any():
        raise EmptyMask(
            f"This picture has no pixel for the region {region!r}: the face parser (or the "
            "landmarks) did not find it.",
            "Name another region, choose another parser, or draw the mask by hand.",
        )
    return mask


def regions_mask(
    regions: tuple[str, ...], labels: Tensor, landmarks: Tensor | None = None
) -> Tensor:
    """Union of several regions' pixels: bool [H,W]. One that is not there adds nothing.

    Raises EmptyMask when none is there, and else what `region_mask` raises.
    """
    masks: list[Tensor] = []
    failure = EmptyMask(
        "No region was asked for, so the mask would be empty.", "Name at least one."
    )
    for region in regions:
        try:
            masks.append(region_mask(region, labels, landmarks))
        except EmptyMask as error:
            failure = error
    if not masks:
        raise failure
    return torch.stack(masks).any(0)
