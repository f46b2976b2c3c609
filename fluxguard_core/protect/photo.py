"""A photo as it is, without any edit: protected within a budget of what friends would notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..evaluate.likeness import FaceView, face_view
from ..recognition.ensemble import Ensemble
from ..resampling import bicubic, shrink
from ..worlds import World
from .changes import Change, LatentChange, PixelChange, Together
from .defended import Defended
from .engine import Descent, DescentSettings, Draw, OnStep, descend
from .gradients import gradients
from .held import HeldSpace
from .optimisers import LengthMomentum
from .photo_views import PhotoViews
from .presets import PhotoPreset, photo_preset_named
from .region import face_region
from .spaces import Decode
from .strangers import CleanTerm, stranger_term
from .visibility import Visibility

_WORKING, _LARGE = (
    1.25,
    1.5,
)  # a larger face is worked on at this many pixels a pixel of the figures
_GREY = 3 / 255  # a photo whose channels differ less has no colour, and gets none


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """Both halves of an autoencoder, for pictures [1, 3, h, w] in [0, 1] with sides that are multiples of ``cell``.

    ``world`` says which faces it knows.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Decode
    cell: int = 8
    world: World = "photo"


def protect_pixels(
    picture: Tensor,
    ensemble: Ensemble,
    landmarks: Tensor,
    preset: PhotoPreset | str = "default",
    *,
    autoencoder: Autoencoder | None = None,
    mask: Tensor | None = None,
    warm: Tensor | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Defended:
    """Protect the person in a photo against recognition; nothing is edited.

    Args:
        picture: [1, 3, H, W] in [0, 1], on the grid of 1/255.
        ensemble: only its attacked members are ever called.
        landmarks: five points [5, 2] or [1, 5, 2] of the face in pixels.
        autoencoder: its latent is varied beside the pixels; None leaves the pixels alone.
        mask: where the photo may change, [1, 1, H, W] in [0, 1], on top of the face; None means all of the face.
        warm: the photo as something else has changed it, such as a cloak, [1, 3, H, W]; the descent begins there
            instead of at the photo and needs fewer steps.
        on_step: progress; may raise ``Interrupted``, which keeps the best so far.

    Returns:
        The photo at its own size; outside the region it is untouched.

    Raises:
        FluxGuardError: more than one picture, a face too small, a mask without any of the face.
    """
    chosen = photo_preset_named(preset) if isinstance(preset, str) else preset
    with gradients():
        source = picture.detach().clone().float()
        whole = face_view(source, landmarks.detach().clone())
        view, points = _at_working_size(
            whole, landmarks.detach().clone().reshape(1, 5, 2).to(source)
        )
        allowed = None if mask is None else whole.cut(mask.detach().clone().to(source))
        region = _region(view, points, allowed)
        change = _change(view, region, chosen, autoencoder)
        begun = None if warm is None else _begun(warm.detach().clone().to(source), whole, view)
        space = HeldSpace(change, Visibility(view, chosen.budget), region, begun)
        done = _descended(space, ensemble, points, chosen, seed, on_step)
        finished = space.finished(done.variable)
    return _put_back(source, whole, view, finished, region, done)


def _descended(
    space: HeldSpace,
    ensemble: Ensemble,
    points: Tensor,
    preset: PhotoPreset,
    seed: int,
    on_step: OnStep | None,
) -> Descent:
    views = PhotoViews(points, preset.views)
    generator = torch.Generator().manual_seed(seed)
    return descend(
        space,
        [stranger_term(ensemble, space.photo, views.plain), CleanTerm(space.visibility.view)],
        LengthMomentum(preset.step_size, steps=preset.steps, shaped=space.change.shaped),
        DescentSettings(steps=preset.steps, patience=3),
        draw=lambda: Draw(views(generator), generator),
        weights={"look": preset.look},
        on_step=on_step,
    )


def _at_working_size(whole: FaceView, points: Tensor) -> tuple[FaceView, Tensor]:
    """The face as it is worked on, and its points there; a large face is brought down."""
    top, _, left, _ = whole.box
    inside = points - points.new_tensor([left, top])
    height, width = whole.photo.shape[-2:]
    scale = _WORKING / whole.pixel if whole.pixel > _LARGE else 1.0
    if scale == 1.0:
        return face_view(whole.photo, inside), inside
    size = (round(scale * height), round(scale * width))
    small = bicubic(whole.photo, size).clamp(0, 1)
    moved = (inside + 0.5) * scale - 0.5
    return face_view(small, moved), moved


def _begun(warm: Tensor, whole: FaceView, view: FaceView) -> Tensor:
    """The change of a photo that has been changed already, at the size that is worked on."""
    change = whole.cut(warm) - whole.photo
    size = (view.photo.shape[-2], view.photo.shape[-1])
    return change if change.shape[-2:] == size else bicubic(change, size)


def _region(view: FaceView, points: Tensor, allowed: Tensor | None) -> Tensor:
    """Where the change may lie [1, 1, h, w]: a soft ellipse over the face, inside the mask."""
    height, width = view.photo.shape[-2:]
    region = face_region(points.cpu(), height, width, 1).to(view.photo)
    if allowed is not None:
        region = region * shrink(allowed, (height, width))
    if not bool((region > 0).any()):
        raise FluxGuardError(
            "The mask leaves no part of the face to protect.",
            "Paint the face white, or leave the mask out.",
        )
    return region


def _change(
    view: FaceView, region: Tensor, preset: PhotoPreset, autoencoder: Autoencoder | None
) -> Change:
    colourless = bool((view.photo.amax(1) - view.photo.amin(1)).max() < _GREY)
    pixels = PixelChange(view, region, preset.coarsest, chroma=0.0 if colourless else preset.chroma)
    if autoencoder is None:
        return pixels
    with torch.no_grad():
        latent = autoencoder.encode(_padded(view.photo, autoencoder.cell))
    coarsest = preset.coarsest * view.pixel
    return Together(
        [pixels, LatentChange(latent, autoencoder.decode, region, preset.latent, coarsest)]
    )


def _padded(picture: Tensor, cell: int) -> Tensor:
    """To whole cells, the last row and column repeated."""
    height, width = picture.shape[-2:]
    return F.pad(picture, (0, -width % cell, 0, -height % cell), mode="replicate")


def _put_back(
    source: Tensor, whole: FaceView, view: FaceView, finished: Tensor, region: Tensor, done: Descent
) -> Defended:
    """The change enlarged to the photo's own size and added, on the grid of 1/255."""
    top, bottom, left, right = whole.box
    size = (bottom - top, right - left)
    change = finished - view.photo
    if change.shape[-2:] != size:
        change = bicubic(change, size, antialias=False)
        region = F.interpolate(region, size, mode="bilinear")
        change = change * (region > 0)
    out, where = source.clone(), torch.zeros_like(source[:, :1])
    out[..., top:bottom, left:right] += change
    where[..., top:bottom, left:right] = region
    picture = (out * 255).round().clamp(0, 255) / 255
    return Defended(picture, where, done.log, done.settled, done.interrupted is not None)
