"""From a preset to a refiner, for any pair of picture and decoder."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..faces.alignment import whole_frame
from ..faces.face import FaceFinder
from ..pictures.detail import with_detail
from ..pictures.geometry import pad_to
from ..recognition.ensemble import Ensemble
from ..recognition.identity import Identity
from .engine import OnStep
from .held import budgets
from .identity import identity_term
from .perceptual import PerceptualDistance
from .presets import Preset
from .refiner import Hold, Refiner
from .region import Window, face_region, window_around
from .spaces import Decode
from .views import AlignedViews, View, Views, whole_frame_views
from .visibility import VisibilityBudget


def assemble_refiner(
    preset: Preset,
    ensemble: Ensemble,
    identity: Identity,
    picture: Tensor,
    landmarks: Tensor | None,
    grid: tuple[int, int],
    *,
    pixels: int,
    decode: Decode,
    perceptual: PerceptualDistance,
    decode_tiny: Decode | None = None,
    source: Tensor | None = None,
    find_faces: FaceFinder | None = None,
    within: Tensor | None = None,
    budget: VisibilityBudget | None = None,
    one_batch: bool = True,
    on_step: OnStep | None = None,
) -> tuple[Refiner, Window | None]:
    """The preset's refiner, and the part of the latent it works on.

    Args:
        picture: of the person [B, 3, H, W] in [0, 1].
        landmarks: five points [1, B or faces · B, 5, 2] of the picture, one face after the other; only
            the paper preset does without.
        grid: height and width of the latent.
        pixels: side of a latent cell in pixels.
        decode_tiny: cheap decoder, which the fast preset needs.
        source: the picture's own latent [B, C, h, w]; with it a preset with ``detail`` looks at decoded pictures
            that keep what the autoencoder cannot hold.
        budget: what may be seen of the protection, for one picture with known faces; None leaves it free.
        one_batch: recognisers see all views at once, or in turn where memory is short.
        within: further bound on where it may act, [1 or B, 1, h, w] in [0, 1].
    """
    if landmarks is None and (preset.aligned or preset.face_only):
        raise FluxGuardError(
            f"The {preset.name} preset needs to know where the face is.",
            "Give landmarks or a box, or choose the "
            "paper preset, which looks at the whole picture.",
        )
    if preset.tiny and decode_tiny is None:
        raise FluxGuardError(
            "The fast preset needs a tiny decoder (TAESD layout, 16 latent channels).",
            "Give one, or choose the default preset.",
        )
    region = _region(preset, landmarks, grid, pixels, within, picture.shape[0])
    window = None if region is None else window_around(region)
    if region is not None and window is not None:
        region = window.crop(region).to(picture.device)
    views, plain = _views(preset, landmarks, window, pixels)
    term = identity_term(
        ensemble,
        identity,
        picture,
        plain,
        push_away=preset.push_away,
        find_faces=find_faces if preset.aligned else None,
        goal=preset.goal,
        one_batch=one_batch,
    )
    working = decode_tiny if preset.tiny and decode_tiny is not None else decode
    if preset.detail and source is not None:
        looks = partial(_detailed, source=source, picture=picture, window=window, pixels=pixels)
        decode, working = looks(decode), looks(working)
    refiner = Refiner(
        decode=working,
        identity=term,
        perceptual=perceptual,
        views=views,
        settings=preset.refiner,
        region=region,
        check=decode if preset.tiny else None,
        hold=None if budget is None else _hold(budget, landmarks, window, pixels, picture.shape[0]),
        on_step=on_step,
    )
    return refiner, window


@torch.no_grad()
def _detailed(
    decode: Decode, *, source: Tensor, picture: Tensor, window: Window | None, pixels: int
) -> Decode:
    """A decoder of the window whose pictures keep what it loses of the source."""
    whole = pad_to(picture, (pixels * source.shape[-2], pixels * source.shape[-1]))
    photo = whole if window is None else window.scaled(pixels).crop(whole)
    plain = decode(source if window is None else window.crop(source))
    return lambda latent: with_detail(decode(latent), photo, plain)


def _region(
    preset: Preset,
    landmarks: Tensor | None,
    grid: tuple[int, int],
    pixels: int,
    within: Tensor | None,
    pictures: int,
) -> Tensor | None:
    region = None
    if preset.face_only and landmarks is not None:
        region = face_region(landmarks.cpu(), *grid, pixels)
        if len(region) > pictures:  # several faces a picture
            region = region.unflatten(0, (-1, pictures)).amax(0)
    if within is not None:
        region = within.cpu() if region is None else region * within.cpu()
    if region is not None and not bool((region.flatten(1).amax(1) > 0).all()):
        raise FluxGuardError(
            "The mask leaves no part of the face to protect.",
            "Paint the face white, or leave the mask out.",
        )
    return region


def _views(
    preset: Preset, landmarks: Tensor | None, window: Window | None, pixels: int
) -> tuple[Views, View]:
    if not preset.aligned or landmarks is None:
        return whole_frame_views, whole_frame
    seen = landmarks if window is None else window.shift(landmarks, pixels)
    return AlignedViews(seen, random=preset.random_views), AlignedViews(landmarks).plain


def _hold(
    budget: VisibilityBudget,
    landmarks: Tensor | None,
    window: Window | None,
    pixels: int,
    pictures: int,
) -> Hold:
    if landmarks is None or pictures != 1:
        raise FluxGuardError(
            "What may be seen is bounded on one picture whose faces are known.",
            "Protect pictures one by one, with a preset that looks at faces.",
        )
    seen = landmarks if window is None else window.shift(landmarks, pixels)
    return lambda looks: budgets(looks, seen.to(looks), budget)


def touched_pixels(
    region: Tensor | None, window: Window | None, grid: tuple[int, int], pixels: int
) -> Tensor:
    """Where a refiner may have changed pixels [1, 1, H, W]: its region and the decoder's reach."""
    if region is None or window is None:
        return torch.ones(1, 1, pixels * grid[0], pixels * grid[1])
    whole = torch.zeros(1, 1, *grid)
    touched = window.paste(whole, (region.amax(0, keepdim=True) > 0).to(whole))
    reach = F.max_pool2d(touched, 3, stride=1, padding=1)
    return reach.repeat_interleave(pixels, 2).repeat_interleave(pixels, 3)


def blending_mask(
    region: Tensor | None, window: Window | None, grid: tuple[int, int], pixels: int
) -> Tensor:
    """The refiner's soft region in pixels [1, 1, H, W], for pasting its result into a picture."""
    if region is None or window is None:
        return torch.ones(1, 1, pixels * grid[0], pixels * grid[1])
    whole = window.paste(torch.zeros(1, 1, *grid), region.amax(0, keepdim=True).float())
    return F.interpolate(whole, scale_factor=pixels, mode="bilinear").clamp(0, 1)
