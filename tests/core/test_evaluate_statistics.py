"""Statistics: against published values, scipy, and exact enumeration."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.statistics import (
    bootstrap_mean,
    clustered_wilson,
    paired,
    paired_shares,
    wilson,
)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (45, 50), (50, 50), (95, 100)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_agrees_with_scipy(successes: int, trials: int, confidence: float) -> None:
    mine = wilson(successes, trials, confidence)
    theirs = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert mine.value == successes / trials


def test_trials_that_hang_together_count_for_fewer() -> None:
    """Independent trials: Wilson's own. Six judges who always agree: nearly as many trials as people."""
    hits = [at % 5 == 0 for at in range(40)]
    single, own = clustered_wilson(hits, list(range(40))), wilson(8, 40)
    assert (single.low, single.high) == pytest.approx((own.low, own.high))
    people = [person for person in range(40) for _ in range(6)]
    alike = clustered_wilson([hits[person] for person in people], people)
    assert alike.value == 0.2
    assert wilson(8, 40).low > alike.low > wilson(8, 40).low - 0.01
    assert wilson(8, 40).high < alike.high < wilson(8, 40).high + 0.01
    assert clustered_wilson([False] * 240, people) == wilson(0, 40)
    assert clustered_wilson([True] * 240, people).low == wilson(40, 40).low
    with pytest.raises(FluxGuardError, match="one cluster a trial"):
        clustered_wilson([True], [])


def test_the_clustered_interval_covers_what_the_plain_one_does_not() -> None:
    """People differ (shares of 0.1 or 0.7), each is judged nine times, and the interval is of all people."""
    generator = torch.Generator().manual_seed(3)
    clusters = [person for person in range(60) for _ in range(9)]
    plain = clustered = 0
    for _ in range(300):
        own = 0.1 + 0.6 * (torch.rand(60, generator=generator) < 0.5).double()
        hits = (torch.rand(60, 9, generator=generator) < own[:, None]).flatten().tolist()
        few, many = wilson(sum(hits), len(hits)), clustered_wilson(hits, clusters)
        plain += few.low <= 0.4 <= few.high
        clustered += many.low <= 0.4 <= many.high
    assert plain / 300 < 0.85
    assert 0.91 <= clustered / 300 <= 0.99


def test_bootstrap_covers_the_mean_and_is_repeatable() -> None:
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(100):
        sample = (torch.randn(40, generator=generator) + 3).tolist()
        interval = bootstrap_mean(sample, resamples=1000, seed=seed)
        covered += interval.low <= 3 <= interval.high
    assert 86 <= covered <= 99
    again = bootstrap_mean(sample, resamples=1000, seed=seed)
    assert again == interval
    assert bootstrap_mean([2.0, 2.0, 2.0]).high == 2.0


def test_sign_flip_test_agrees_with_scipy() -> None:
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(12, generator=generator)
    second = first - 0.3 + 0.5 * torch.randn(12, generator=generator)
    mine = paired(first.tolist(), second.tolist())
    theirs = stats.permutation_test(
        (first.double().numpy(), second.double().numpy()),
        lambda a, b: (a - b).mean(),
        permutation_type="samples",
        n_resamples=2**12,
    )
    assert mine.p_value == pytest.approx(theirs.pvalue, abs=1e-9)
    assert mine.difference.low < mine.difference.value < mine.difference.high
    assert mine.pairs == 12


def test_paired_tells_an_effect_from_none() -> None:
    generator = torch.Generator().manual_seed(2)
    base = torch.randn(60, generator=generator)
    moved = base - 0.5 + 0.2 * torch.randn(60, generator=generator)
    shuffled = base + 0.2 * torch.randn(60, generator=generator)
    assert paired(base.tolist(), moved.tolist()).p_value < 0.001
    assert paired(base.tolist(), shuffled.tolist()).p_value > 0.02


def test_mcnemar_agrees_with_scipy() -> None:
    first = [True] * 9 + [False] * 2 + [True] * 5 + [False] * 4
    second = [False] * 9 + [True] * 2 + [True] * 5 + [False] * 4
    assert paired_shares(first, second) == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert paired_shares([True, False], [True, False]) == 1


def test_bad_numbers() -> None:
    with pytest.raises(FluxGuardError, match="5 of 3"):
        wilson(5, 3)
    with pytest.raises(FluxGuardError, match="at least one trial"):
        wilson(0, 0)
    with pytest.raises(FluxGuardError, match="between 0 and 1"):
        wilson(1, 3, 95)
    with pytest.raises(FluxGuardError, match="finite"):
        bootstrap_mean([1.0, float("nan")])
    with pytest.raises(FluxGuardError, match="3 and 2"):
        paired([1, 2, 3], [1, 2])
