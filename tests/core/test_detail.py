"""The photo's own detail comes back around and under an edit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.pictures.detail import with_detail

from .tiny import noise


def smoothed(picture: torch.Tensor) -> torch.Tensor:
    """A round trip that loses everything fine."""
    return F.avg_pool2d(F.pad(picture, (2, 2, 2, 2), mode="replicate"), 5, stride=1)


def test_what_did_not_change_is_the_source_and_a_change_lies_over_its_grain() -> None:
    source = (0.5 + 0.1 * noise(1, 3, 32, 32, seed=1)).clamp(0.2, 0.8)
    plain = smoothed(source)
    decoded = plain.clone()
    decoded[..., 8:16, 8:16] += 0.1
    result = with_detail(decoded, source, plain)
    away = torch.ones(32, 32, dtype=torch.bool)
    away[8:16, 8:16] = False
    assert (result - source)[..., away].abs().max() < 1e-6
    assert (decoded - source)[..., away].abs().max() > 0.05  # what the round trip lost
    assert torch.allclose(result[..., 8:16, 8:16], source[..., 8:16, 8:16] + 0.1, atol=1e-6)


def test_gradients_pass_and_the_range_holds() -> None:
    source = noise(1, 3, 8, 8, seed=2).sigmoid()
    decoded = noise(2, 3, 8, 8, seed=3).requires_grad_()  # far out of range
    result = with_detail(decoded, source, smoothed(source))
    low, high = result.detach().aminmax()
    assert result.shape == (2, 3, 8, 8) and low >= 0 and high <= 1
    (slope,) = torch.autograd.grad(result.sum(), decoded)
    inside = (result > 0) & (result < 1)
    assert torch.equal(slope, inside.to(slope))


def test_another_size_is_named() -> None:
    with pytest.raises(FluxGuardError, match="16 x 8, 16 x 16"):
        with_detail(torch.zeros(1, 3, 8, 16), torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 8, 16))
