"""Quality and transforms: against scikit-image and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.quality import eight_bit, masked_psnr, psnr, quality, ssim
from fluxguard_core.evaluate.transforms import (
    SHARING,
    Transform,
    autoencoder,
    blur,
    jpeg,
    noise,
    rescale,
)
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render


@pytest.fixture(scope="module")
def portrait() -> Tensor:
    return render(random_spec(7)).image[None]


def test_psnr_closed_forms(portrait: Tensor) -> None:
    black = torch.zeros(1, 3, 16, 16)
    assert psnr(black, black + 0.1) == pytest.approx(20, abs=1e-4)
    assert psnr(black, black) == math.inf
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 0.5
    changed = black.clone()
    changed[..., :8] = 0.1
    assert masked_psnr(black, changed, mask) == math.inf
    assert masked_psnr(black, changed, mask, outside=False) == pytest.approx(20, abs=1e-4)
    assert psnr(black, changed) == pytest.approx(20 + 10 * math.log10(2), abs=1e-4)
    result = quality(portrait, noise(0.1)(portrait), torch.zeros(1, 1, 128, 128))
    assert result.outside == pytest.approx(result.psnr)
    assert quality(portrait, portrait, torch.ones(1, 1, 128, 128)).outside is None


def test_ssim_agrees_with_scikit_image(portrait: Tensor) -> None:
    from skimage.metrics import structural_similarity

    other = blur(1.5)(portrait)
    mine = ssim(portrait, other)
    theirs = structural_similarity(
        portrait[0].double().numpy(),
        other[0].double().numpy(),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert mine == pytest.approx(theirs, abs=1e-3)
    assert ssim(portrait, portrait) == pytest.approx(1)
    assert mine < 0.99


def test_quality_errors() -> None:
    a = torch.zeros(1, 3, 16, 16)
    with pytest.raises(FluxGuardError, match="one size"):
        psnr(a, torch.zeros(1, 3, 8, 8))
    with pytest.raises(FluxGuardError, match="No pixel lies outside"):
        masked_psnr(a, a, torch.ones(1, 1, 16, 16))
    with pytest.raises(FluxGuardError, match="pixel size"):
        masked_psnr(a, a, torch.zeros(1, 1, 2, 2))
    with pytest.raises(FluxGuardError, match="11 pixels"):
        ssim(a[..., :8, :8], a[..., :8, :8])


def test_sharing_changes_pictures_a_little_and_keeps_their_shape(portrait: Tensor) -> None:
    for transform in SHARING:
        changed = transform(portrait)
        assert changed.shape == portrait.shape and changed.dtype == portrait.dtype
        assert float(changed.min()) >= 0 and float(changed.max()) <= 1
        assert 24 < psnr(portrait, changed) < 50, transform.name
        assert torch.equal(changed, transform(portrait)), transform.name
    assert len({t.name for t in SHARING}) == len(SHARING)


def test_jpeg_is_the_real_codec(portrait: Tensor) -> None:
    import io

    from PIL import Image

    array = (eight_bit(portrait)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="JPEG", quality=50)
    expected = np.asarray(Image.open(stream)).astype(np.float32) / 255
    both = jpeg(50)(torch.cat((portrait, 1 - portrait)))
    assert np.allclose(both[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert psnr(portrait, jpeg(75)(portrait)) > psnr(portrait, jpeg(50)(portrait))


def test_transforms_do_what_they_say() -> None:
    torch.manual_seed(0)
    grain = torch.rand(1, 3, 64, 64)
    for smooth in (blur(1.0), rescale(0.5)):
        assert float(smooth(grain).std()) < 0.75 * float(grain.std())
        flat = torch.full((1, 3, 20, 30), 0.25)
        assert torch.allclose(smooth(flat), flat, atol=0.003)
    grey = torch.full((1, 3, 64, 64), 0.5)
    assert float(noise(0.05)(grey).std()) == pytest.approx(0.05, rel=0.05)
    assert not torch.equal(noise(0.05, seed=1)(grey), noise(0.05, seed=2)(grey))
    odd = torch.rand(2, 3, 33, 47)
    assert rescale(0.5)(odd).shape == odd.shape
    halved = autoencoder(lambda x: x / 4, lambda z: z * 2)(grain)
    assert torch.allclose(halved, grain / 2)


def test_transform_errors() -> None:
    with pytest.raises(FluxGuardError, match=r"1\.\.95"):
        jpeg(0)
    with pytest.raises(FluxGuardError, match="between 0 and 1"):
        rescale(2)
    with pytest.raises(FluxGuardError, match="keep the size"):
        Transform("crop", "Crop", lambda x: x[..., 1:])(torch.zeros(1, 3, 8, 8))


def test_transforms_run_without_gradients() -> None:
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    for transform in SHARING:
        assert not transform(image).requires_grad


def test_eight_bit() -> None:
    values = torch.tensor([-0.2, 0.5, 1.7, 0.25])
    assert torch.allclose(eight_bit(values) * 255, torch.tensor([0.0, 128.0, 255.0, 64.0]))
