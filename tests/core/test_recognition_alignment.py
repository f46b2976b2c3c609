"""Alignment: Umeyama against scikit-image, crops against insightface, gradient coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.faces.alignment import (
    align,
    gradient_coverage,
    invert,
    similarity_transform,
    whole_frame,
)
from fluxguard_core.faces.crops import ARCFACE_TEMPLATE, arcface


def landmarks_for(scale: float, degrees: float, shift: tuple[float, float]) -> Tensor:
    """The template placed in a picture: `scale` picture pixels per crop pixel. [1,5,2]."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    linear = torch.tensor([[cos, -sin], [sin, cos]])
    return (ARCFACE_TEMPLATE @ linear.T + torch.tensor(shift))[None]


def picture(size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, size, size, generator=generator)


def test_umeyama_equals_scikit_image() -> None:
    transform = pytest.importorskip("skimage.transform")
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        points = torch.rand(5, 2, generator=generator) * 300
        reference = transform.SimilarityTransform()
        reference.estimate(points.double().numpy(), ARCFACE_TEMPLATE.double().numpy())
        ours = similarity_transform(points[None].double(), ARCFACE_TEMPLATE[None].double())[0]
        np.testing.assert_allclose(ours.numpy(), reference.params[:2], atol=1e-9)


def test_inverse_undoes_the_transform() -> None:
    points = landmarks_for(3.1, 17.0, (40.0, 25.0))
    matrix = similarity_transform(points, ARCFACE_TEMPLATE[None])
    back = invert(matrix)[0]
    returned = ARCFACE_TEMPLATE @ back[:, :2].T + back[:, 2]
    torch.testing.assert_close(returned, points[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [112, 224, 128])
def test_plain_crop_equals_insightface(size: int) -> None:
    face_align = pytest.importorskip("insightface.utils.face_align")
    smooth = torch.nn.functional.interpolate(picture(24), (256, 256), mode="bicubic").clamp(0, 1)
    array = (smooth[0].permute(1, 2, 0) * 255).round().byte().numpy()
    exact = torch.from_numpy(array).permute(2, 0, 1)[None] / 255.0
    points = landmarks_for(1.2, -12.0, (30.0, 40.0))
    expected = face_align.norm_crop(array, points[0].numpy(), size).astype(np.float32)
    ours = align(exact, points, size, antialias=False)[0].permute(1, 2, 0) * 255
    assert np.abs(ours.numpy() - expected).max() <= 1.0


@pytest.mark.parametrize("scale", [1.0, 1.3, 2.0, 4.6])
@pytest.mark.parametrize("degrees", [0.0, 31.0])
def test_antialiased_crop_reaches_every_pixel(scale: float, degrees: float) -> None:
    size = int(112 * scale * 1.5)
    points = landmarks_for(scale, degrees, (size * 0.3, size * 0.1))
    assert gradient_coverage((size, size), points[0], 112) == 1.0


def test_plain_crop_leaves_most_pixels_without_gradient() -> None:
    points = landmarks_for(4.6, 10.0, (90.0, 30.0))
    assert gradient_coverage((620, 620), points[0], 112, antialias=False) < 0.25


def test_antialiasing_removes_what_the_crop_cannot_show() -> None:
    checker = (torch.arange(512)[:, None] + torch.arange(512)[None]).remainder(2).float()
    image = checker.expand(1, 3, 512, 512)
    points = landmarks_for(3.7, 5.0, (40.0, 30.0))
    plain = align(image, points, 112, antialias=False)[0, :, 20:90, 20:90]
    clean = align(image, points, 112)[0, :, 20:90, 20:90]
    assert float(plain.std()) > 0.1
    assert float(clean.std()) < 0.02
    assert abs(float(clean.mean()) - 0.5) < 0.01


def test_without_shrinking_antialiasing_changes_nothing() -> None:
    image = picture(160)
    points = landmarks_for(0.9, 8.0, (12.0, 9.0))
    torch.testing.assert_close(
        align(image, points, 112), align(image, points, 112, antialias=False), atol=2e-5, rtol=0
    )


def test_antialiased_shrink_is_close_to_an_antialiased_resize() -> None:
    low = torch.nn.functional.interpolate(picture(24), (448, 448), mode="bicubic").clamp(0, 1)
    offset = (4.0 - 1) / 2
    points = (ARCFACE_TEMPLATE * 4.0 + offset)[None]
    ours = align(low, points, 112)
    resized = torch.nn.functional.interpolate(low, (112, 112), mode="bilinear", antialias=True)
    assert float((ours - resized)[..., 2:-2, 2:-2].abs().max()) < 0.01


def test_landmarks_are_differentiable_and_broadcast() -> None:
    points = landmarks_for(1.5, 3.0, (20.0, 10.0)).requires_grad_(True)
    crop = align(picture(200).expand(2, 3, 200, 200), points, 112)
    crop.square().mean().backward()
    assert points.grad is not None and float(points.grad.abs().sum()) > 0
    assert crop.shape == (2, 3, 112, 112)


def test_template_for_other_sizes() -> None:
    torch.testing.assert_close(arcface(224), ARCFACE_TEMPLATE * 2)
    torch.testing.assert_close(arcface(160), ARCFACE_TEMPLATE * 160 / 112)
    torch.testing.assert_close(arcface(128), ARCFACE_TEMPLATE + torch.tensor([8.0, 0.0]))


def test_whole_frame_is_a_plain_bilinear_resize() -> None:
    image = picture(8)
    expected = (image[..., 1::4, 1::4] + image[..., 1::4, 2::4]) / 4
    expected = expected + (image[..., 2::4, 1::4] + image[..., 2::4, 2::4]) / 4
    torch.testing.assert_close(whole_frame(image, 2), expected)


def test_useless_landmarks_are_refused() -> None:
    with pytest.raises(FluxGuardError, match="coincide"):
        align(picture(64), torch.full((1, 5, 2), 30.0), 112)
    with pytest.raises(FluxGuardError, match="five landmarks"):
        align(picture(64), torch.zeros(1, 68, 2), 112)
