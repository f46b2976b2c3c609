"""Baselines at equal SSIM, and summaries over many pictures."""

from __future__ import annotations

import pytest
import torch

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate import (
    Recognition,
    at_equal_ssim,
    blurred,
    compare,
    noisy,
    ssim,
    summarise,
    wilson,
)
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.regions import mask_from_labels


@pytest.mark.parametrize("target", [0.9, 0.97])
def test_noise_and_blur_reach_the_wanted_ssim(target: float) -> None:
    portrait = render(random_spec(5))
    image = portrait.image[None]
    face = mask_from_labels(portrait.labels, ("face",))
    for degrade, strongest in ((noisy, 1.0), (blurred, 12.0)):
        changed = at_equal_ssim(image, target, degrade, region=face, strongest=strongest)
        assert ssim(changed, image) == pytest.approx(target, abs=2e-3)
        outside = (face == 0).expand_as(image)
        assert float((changed - image)[outside].abs().max()) <= 0.5 / 255 + 1e-6
        assert torch.allclose(changed * 255, (changed * 255).round(), atol=1e-3)


def test_an_unreachable_ssim_is_an_error() -> None:
    image = render(random_spec(5)).image[None]
    with pytest.raises(FluxGuardError, match="allow a stronger"):
        at_equal_ssim(image, 0.2, blurred, strongest=0.5)
    with pytest.raises(FluxGuardError, match="between 0 and 1"):
        at_equal_ssim(image, 1.5, noisy)


def rows(protected: list[float], edited: float = 0.9) -> list[list[Recognition]]:
    return [
        [Recognition("a", True, edited, value, 0.5), Recognition("b", False, edited, 0.8, 0.5)]
        for value in protected
    ]


def test_summary_counts_only_what_was_matched_before() -> None:
    results = rows([0.1, 0.2, 0.6, 0.3])
    results.append([Recognition("a", True, 0.4, 0.1, 0.5), Recognition("b", False, 0.9, 0.8, 0.5)])
    first, second = summarise(results)
    assert first.matched == wilson(4, 5) and first.withheld == wilson(3, 4)
    assert second.withheld == wilson(0, 5) and not second.attacked
    assert first.drop.value == pytest.approx((0.8 + 0.7 + 0.3 + 0.6 + 0.3) / 5)
    assert first.drop.low < first.drop.value < first.drop.high
    assert summarise(rows([0.1, 0.2], edited=0.3))[0].withheld is None


def test_comparison_of_two_treatments() -> None:
    good, bad = rows([0.1] * 6 + [0.2] * 4), rows([0.7] * 6 + [0.6] * 4)
    first, second = compare(good, bad)
    assert first.cosine.difference.value == pytest.approx(-0.52)
    assert first.cosine.p_value == pytest.approx(2 / 2**10) and first.shares < 0.01
    assert second.cosine.difference.value == 0 and second.shares == 1


def test_what_cannot_be_summarised() -> None:
    with pytest.raises(FluxGuardError, match="one ensemble"):
        summarise([*rows([0.1]), rows([0.1])[0][:1]])
    with pytest.raises(FluxGuardError, match="one ensemble"):
        summarise([])
    with pytest.raises(FluxGuardError, match="no threshold"):
        summarise([[Recognition("a", True, 0.9, 0.1)], [Recognition("a", True, 0.9, 0.1)]])
    with pytest.raises(FluxGuardError, match="Pair them up"):
        compare(rows([0.1, 0.2]), rows([0.1, 0.2, 0.3]))
