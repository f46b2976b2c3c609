"""Masks as values: words to pixels, arithmetic, feathering and the latent grids."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.portrait_spec import random_spec, with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.regions import (
    EmptyMask,
    checked,
    coverage,
    feather,
    grow,
    intersection,
    invert,
    mask_from_labels,
    parser_source,
    soft_mask,
    union,
)


def square(low: int, high: int, size: int = 64) -> Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., low:high, low:high] = 1
    return mask


def test_with_a_source_prompt_only_the_change_is_masked() -> None:
    portrait = render(with_attributes(random_spec(3), hair_style="long"))
    before, after = "a person with long hair", "a person with long hair, wearing red lipstick"
    found = parser_source(lambda _: portrait.labels)(portrait.image, after, before)
    assert torch.equal(found.mask, mask_from_labels(portrait.labels, ("lips",)))
    both = parser_source(lambda _: portrait.labels)(
        portrait.image, "blond hair, red lipstick", None
    )
    assert torch.equal(both.mask, mask_from_labels(portrait.labels, ("hair", "lips")))


def test_arithmetic() -> None:
    a, b = square(0, 32), square(16, 64)
    assert float(union(a, b).sum()) == 32 * 32 + 48 * 48 - 16 * 16
    assert float(intersection(a, b).sum()) == 16 * 16
    assert torch.equal(union(a, invert(a)), torch.ones_like(a))
    assert coverage(a) == 0.25
    assert torch.equal(grow(grow(square(20, 30), 3), -3), square(20, 30))
    assert torch.equal(grow(square(20, 30), 3), square(17, 33))
    with pytest.raises(FluxGuardError, match="32x32, 64x64"):
        union(a, square(0, 4, 32))


def test_checked_names_what_is_wrong() -> None:
    assert checked(torch.ones(8, 8, dtype=torch.bool)).shape == (1, 1, 8, 8)
    with pytest.raises(EmptyMask, match="Paint"):
        checked(torch.zeros(8, 8))
    with pytest.raises(EmptyMask):
        checked(torch.stack((torch.ones(1, 8, 8), torch.zeros(1, 8, 8))))
    with pytest.raises(FluxGuardError, match=r"\[B,1,H,W\]"):
        checked(torch.ones(1, 3, 8, 8))
    for bad in (2.0, -1.0, float("nan")):
        with pytest.raises(FluxGuardError, match=r"\[0,1\]"):
            checked(torch.full((8, 8), bad))


def test_feather_keeps_the_inside_and_ends_outside() -> None:
    mask = square(24, 40)
    soft = feather(mask, 8)
    assert torch.equal(soft[mask > 0], mask[mask > 0])
    row = soft[0, 0, 32, 40:]
    assert bool((row.diff() <= 1e-6).all())
    assert 0.2 < float(row[3]) < 0.9 and float(row[12]) < 1e-3
    assert torch.equal(feather(mask, 0), mask)


def test_latent_masks_average_area() -> None:
    assert torch.equal(soft_mask(torch.ones(2, 1, 64, 48), 8), torch.ones(2, 1, 8, 6))
    half = soft_mask(square(0, 36), 8)
    assert half.shape == (1, 1, 8, 8)
    assert float(half[0, 0, 0, 0]) == 1 and float(half[0, 0, 7, 7]) == 0
    assert 0.4 < float(half[0, 0, 0, 4]) < 0.6


def test_sizes_that_are_no_multiple_are_padded_never_stretched() -> None:
    mask = torch.zeros(1, 1, 50, 70)
    mask[..., :, 40:48] = 1
    soft = soft_mask(mask, 8)
    assert soft.shape == (1, 1, 7, 9)
    assert float(soft[0, 0, 3, 5]) > 0.85 and float(soft[0, 0, 3, 4]) < 0.1
    wider = soft_mask(mask, 8, size=(8, 10))
    assert wider.shape == (1, 1, 8, 10) and torch.equal(wider[..., :6, :8], soft[..., :6, :8])
    with pytest.raises(FluxGuardError, match="70x50"):
        soft_mask(mask, 8, size=(6, 9))
