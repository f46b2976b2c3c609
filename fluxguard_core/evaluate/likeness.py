"""Whether friends still see the same person: figures that agree with the eye, against the photo itself.

SSIM and PSNR forgive another nose. Five figures together do not: PSNR says how much was changed, HaarPSI
how clean the face looks, the ``shift`` catches a feature that has moved or changed its shade, ``skin``
creases on smooth skin, and ``spot`` one place that took most of the change, which all the others forgive. A pixel here is one of a face whose eyes lie 60 pixels apart, as in a crop of 256;
so the figures mean the same for any size of the photo.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..regions.morphology import gaussian_blur
from ..resampling import shrink
from .haarpsi import haarpsi

EYES = 60.0  # pixels between the eyes that the figures' pixels are pixels of
_SIDE = 256.0  # the square that is compared, in the same pixels
_SHIFT, _SKIN, _TEXTURE, _SPREAD = 3.5, 2.5, 2.5, 4.0  # blurs, in the same pixels
_HIDDEN = 0.25  # share of a place's own texture that a change may have there unseen
# Half axes of the ellipse of the face in eye distances, and its centre below the eyes' middle.
_WIDE, _HIGH, _DROP = 1.25, 1.7, 0.55
_LUMA = (0.299, 0.587, 0.114)
_SMALLEST = 4  # pixels between the eyes
_HOT = 12 / 255  # the mean change that a heat picture shows fully red

Verdict = Literal["clean", "retouched", "altered"]
WORDS: dict[Verdict, str] = {
    "clean": "clean and the same person",
    "retouched": "the same person, visibly retouched to a close look",
    "altered": "altered: friends may see another person or a damaged picture",
}


@dataclass(frozen=True)
class Likeness:
    """How like the photo a changed one looks, over the face.

    Args:
        psnr: over the square around the face, in dB; inf when nothing changed.
        haarpsi: over the face, in [0, 1].
        shift: largest change that is left after a blur of 3.5 pixels, of 255.
        skin: root mean square of the change finer than 2.5 pixels, on the smoother half of the face, of 255.
        spot: largest local root mean square of the change (over 4 pixels) beyond a quarter of the texture there, of 255.
    """

    psnr: float
    haarpsi: float
    shift: float
    skin: float
    spot: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """What they say together; the bounds were set by eye."""
        if self.haarpsi < 0.90 or self.shift > 12 or self.skin > 3.5 or self.spot > 8:
            return "altered"
        clean = self.haarpsi >= 0.95 and self.shift <= 8 and self.skin <= 3 and self.spot <= 4
        return "clean" if clean else "retouched"

    def told(self) -> str:
        """One sentence with the figures."""
        return (
            f"{WORDS[self.verdict]} (PSNR {self.psnr:.1f} dB, HaarPSI {self.haarpsi:.3f}, largest "
            f"shift {self.shift:.1f}, skin {self.skin:.1f}, spot {self.spot:.1f})"
        )


@dataclass(frozen=True, eq=False)
class FaceView:
    """The square around a face, and what is where in it.

    Args:
        box: top, bottom, left, right in the photo's pixels.
        photo: the photo in it [1, 3, h, w].
        face: 1 over the face, [1, 1, h, w].
        smooth: 1 on the smoother half of the face.
        texture: local standard deviation of the fine luma.
        pixel: how many of the photo's pixels a pixel of the figures is.
    """

    box: tuple[int, int, int, int]
    photo: Tensor
    face: Tensor
    smooth: Tensor
    texture: Tensor
    pixel: float

    def cut(self, picture: Tensor) -> Tensor:
        """The same square of a picture of the photo's size."""
        top, bottom, left, right = self.box
        return picture[..., top:bottom, left:right]

    def shift(self, change: Tensor) -> Tensor:
        """The coarse part of a change [B, 3, h, w]."""
        return gaussian_blur(change, _SHIFT * self.pixel)

    def fine(self, change: Tensor) -> Tensor:
        """The fine part of a change [B, 3, h, w]."""
        return change - gaussian_blur(change, _SKIN * self.pixel)

    def local(self, change: Tensor) -> Tensor:
        """The local root mean square of a change [1, 1, h, w]."""
        squares = gaussian_blur(change.square().mean(1, keepdim=True), _SPREAD * self.pixel)
        return squares.clamp(min=0).sqrt()

    @property
    def hidden(self) -> Tensor:
        """How strong a change the texture of a place hides [1, 1, h, w]."""
        return _HIDDEN * self.texture

    def haarpsi(self, changed: Tensor) -> Tensor:
        """HaarPSI over the face [B]; a larger face is brought to the figures' size first."""
        small = [_reduced(x, self.pixel) for x in (changed, self.photo, self.face)]
        return haarpsi(*small)


def face_view(photo: Tensor, landmarks: Tensor) -> FaceView:
    """Look at the face of a photo.

    Args:
        photo: [1, 3, H, W] in [0, 1].
        landmarks: five points [5, 2] or [1, 5, 2] in pixels.
    """
    if photo.ndim != 4 or photo.shape[0] != 1 or photo.shape[1] != 3:
        raise FluxGuardError(f"Expected one photo [1, 3, H, W], got {list(photo.shape)}.")
    points = landmarks.reshape(-1, 5, 2)[0].to(photo)
    unit = _unit(points)
    if unit < _SMALLEST:
        raise FluxGuardError(
            f"A face of {unit:.1f} pixels between the eyes is too small to compare by eye; expected {_SMALLEST} or more."
        )
    box = _square(points.mean(0), unit * _SIDE / EYES, (photo.shape[-2], photo.shape[-1]))
    top, bottom, left, right = box
    inside = photo[..., top:bottom, left:right]
    face = _ellipse(points - points.new_tensor([left, top]), unit, inside)
    texture = _texture(inside, unit / EYES)
    middle = texture[face > 0].median()
    smooth = face * (texture <= middle)
    return FaceView(box, inside, face, smooth, texture, unit / EYES)


def likeness(photo: Tensor, changed: Tensor, landmarks: Tensor) -> Likeness:
    """Compare a changed photo [1, 3, H, W] with the photo, over the face at ``landmarks``."""
    if photo.shape != changed.shape:
        raise FluxGuardError(
            f"Two pictures of one size are compared; got {list(photo.shape)} and {list(changed.shape)}."
        )
    view = face_view(photo, landmarks)
    return measured(view, view.cut(changed))


def likeness_of_faces(
    photo: Tensor, changed: Tensor, faces: Iterable[Tensor | None]
) -> tuple[Likeness, ...]:
    """The figures of every face whose five points are known and that is large enough to be compared by eye."""
    known = (points for points in faces if points is not None)
    return tuple(likeness(photo, changed, p) for p in known if _unit(p) >= _SMALLEST)


@torch.no_grad()
def measured(view: FaceView, changed: Tensor) -> Likeness:
    """The figures of a changed square [1, 3, h, w]."""
    change = changed - view.photo
    error = float(change.cpu().double().square().mean())  # not every device has float64
    fine = view.fine(change).square().mean(1, keepdim=True)
    return Likeness(
        psnr=float("inf") if error == 0 else float(-10 * torch.log10(torch.tensor(error))),
        haarpsi=float(view.haarpsi(changed)),
        shift=255 * float((view.shift(change).abs() * view.face).amax()),
        skin=255 * float(((fine * view.smooth).sum() / view.smooth.sum()).sqrt()),
        spot=255 * float(((view.local(change) - view.hidden).clamp(min=0) * view.face).amax()),
    )


def heat_picture(photo: Tensor, changed: Tensor) -> Tensor:
    """Where a photo was changed: grey, and the redder the more [1, 3, H, W] in [0, 1]."""
    change = (changed - photo).abs().mean(1, keepdim=True)
    side = max(photo.shape[-2:])
    heat = (gaussian_blur(change, max(1.0, side / 256)) / _HOT).clamp(0, 1)
    grey = torch.einsum("c,bchw->bhw", photo.new_tensor(_LUMA), photo)[:, None]
    red = photo.new_tensor([1.0, 0.15, 0.1]).reshape(1, 3, 1, 1)
    return torch.lerp(0.35 + 0.5 * grey.expand_as(photo), red.expand_as(photo), heat)


def _unit(points: Tensor) -> float:
    """The eyes' distance in pixels; in a profile, where they come together, by the way to the mouth."""
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    return max(float((points[1] - points[0]).norm()), 0.9 * float((mouth - eyes).norm()))


def _square(centre: Tensor, side: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    x, y = centre.tolist()
    half = side / 2
    top, left = max(0, round(y - half)), max(0, round(x - half))
    return top, min(size[0], round(y + half)), left, min(size[1], round(x + half))


def _ellipse(points: Tensor, unit: float, like: Tensor) -> Tensor:
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = (mouth - eyes) / (mouth - eyes).norm()
    along = torch.stack([down[1], -down[0]])
    height, width = like.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    offset = torch.stack([x, y], -1).to(points) - (eyes + _DROP * unit * down)
    u, v = (offset @ along) / (_WIDE * unit), (offset @ down) / (_HIGH * unit)
    return (u.square() + v.square() <= 1)[None, None].to(like)


def _texture(photo: Tensor, pixel: float) -> Tensor:
    luma = torch.einsum("c,bchw->bhw", photo.new_tensor(_LUMA), photo)[:, None]
    fine = luma - gaussian_blur(luma, _TEXTURE * pixel)
    return gaussian_blur(fine.square(), _SPREAD * pixel).sqrt()


def _reduced(picture: Tensor, pixel: float) -> Tensor:
    """At the figures' size where it is clearly larger; resampling a picture of about that size would only blur it."""
    if pixel < 1.5:
        return picture
    height, width = picture.shape[-2:]
    size = (max(16, round(height / pixel)), max(16, round(width / pixel)))
    return shrink(picture, size)
