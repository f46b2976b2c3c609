"""Shares, means and paired differences with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import FluxGuardError


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Paired:
    """Mean of first - second over pairs, its interval, and a two-sided p-value (sign flips)."""

    difference: Interval
    p_value: float
    pairs: int


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise FluxGuardError(f"A confidence lies between 0 and 1; got {confidence}.")
    half = torch.tensor(0.5 + confidence / 2, dtype=torch.float64)
    return float(torch.special.ndtri(half))


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson 1927); sound for few trials and shares of 0 or 1."""
    if trials <= 0 or not 0 <= successes <= trials:
        raise FluxGuardError(
            f"A share needs 0 <= successes <= trials and at least one trial; got {successes} of "
            f"{trials}."
        )
    return _wilson(successes / trials, trials, confidence)


def clustered_wilson(
    hits: Sequence[bool], clusters: Sequence[int], confidence: float = 0.95
) -> Interval:
    """Wilson's interval of a share whose trials hang together, as several pictures or judges of one person do.

    The trials count for as many as independent ones would be worth: their number over the design effect, which is the
    variance between clusters over that of independent trials and at least 1 (Korn and Graubard 1998, Survey Methodology
    24). A share of 0 or 1 shows no variance, so there each cluster counts once.
    """
    trials, names = len(hits), sorted(set(clusters))
    if trials == 0 or len(clusters) != trials:
        raise FluxGuardError(
            f"Expected one cluster a trial and at least one trial; got {len(clusters)} for {trials}."
        )
    share = sum(map(bool, hits)) / trials
    if share in (0.0, 1.0) or len(names) < 2:
        return _wilson(share, len(names), confidence)
    rests = dict.fromkeys(names, 0.0)
    for hit, cluster in zip(hits, clusters, strict=True):
        rests[cluster] += bool(hit) - share
    between = sum(rest**2 for rest in rests.values()) * len(names) / (len(names) - 1)
    effect = max(1.0, between * (trials - 1) / (trials**2 * share * (1 - share)))
    return _wilson(share, trials / effect, confidence)


def _wilson(share: float, trials: float, confidence: float) -> Interval:
    z = _normal_quantile(confidence)
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2)) / scale
    low = 0.0 if share == 0 else max(0.0, centre - half)
    high = 1.0 if share == 1 else min(1.0, centre + half)
    return Interval(share, low, high, confidence)


def _values(values: Sequence[float], least: int) -> Tensor:
    data = torch.tensor(list(values), dtype=torch.float64)
    if data.numel() < least or not bool(torch.isfinite(data).all()):
        raise FluxGuardError(f"Expected at least {least} finite numbers; got {list(values)}.")
    return data


def bootstrap_mean(
    values: Sequence[float], confidence: float = 0.95, *, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean with its percentile bootstrap interval; the same for the same seed."""
    data = _values(values, 2)
    _normal_quantile(confidence)
    generator = torch.Generator().manual_seed(seed)
    means = torch.cat(
        [
            data[torch.randint(data.numel(), (count, data.numel()), generator=generator)].mean(1)
            for count in _chunks(resamples, data.numel())
        ]
    )
    return _percentiles(float(data.mean()), means, confidence)


def clustered_mean(
    values: Sequence[float],
    clusters: Sequence[int],
    confidence: float = 0.95,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean with its percentile bootstrap interval over clusters, for values that hang together.

    Several pictures of one person are not independent: whole clusters are drawn with replacement
    (Davison and Hinkley 1997, section 3.8), so the interval tells how far another set of people could
    move the mean. The same for the same seed.
    """
    data = _values(values, 2)
    names = sorted(set(clusters))
    if len(clusters) != len(values) or len(names) < 2:
        raise FluxGuardError(
            f"Expected one cluster a value and at least two different ones; got {len(clusters)} for "
            f"{len(values)} values, {len(names)} of them different."
        )
    _normal_quantile(confidence)
    index = torch.tensor([names.index(cluster) for cluster in clusters])
    sums = torch.zeros(len(names), dtype=torch.float64).index_add_(0, index, data)
    counts = torch.bincount(index, minlength=len(names)).double()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(names), (resamples, len(names)), generator=generator)
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return _percentiles(float(data.mean()), means, confidence)


def ratio_of_means(
    first: Sequence[float],
    second: Sequence[float],
    confidence: float = 0.95,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of the first over mean of the second, in pairs, with its percentile bootstrap interval over pairs.

    Pairs are drawn together, so what both have in common does not widen the interval. Draws in which the second mean
    is 0 say nothing and are left out; nan where it is 0 over all pairs. The same for the same seed.
    """
    above, below = _values(first, 2), _values(second, 2)
    _normal_quantile(confidence)
    if not float(below.sum()):
        return Interval(math.nan, math.nan, math.nan, confidence)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(below.numel(), (resamples, below.numel()), generator=generator)
    sums = below[drawn].sum(1)
    ratios = above[drawn].sum(1)[sums > 0] / sums[sums > 0]
    return _percentiles(float(above.sum() / below.sum()), ratios, confidence)


def _percentiles(value: float, resampled: Tensor, confidence: float) -> Interval:
    ends = torch.tensor([0.5 - confidence / 2, 0.5 + confidence / 2], dtype=torch.float64)
    low, high = torch.quantile(resampled, ends).tolist()
    return Interval(value, low, high, confidence)


def _chunks(total: int, width: int) -> list[int]:
    step = max(1, min(total, 2_000_000 // width))
    return [min(step, total - start) for start in range(0, total, step)]


def paired(
    first: Sequence[float],
    second: Sequence[float],
    confidence: float = 0.95,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """Compare two treatments of the same subjects: bootstrap of the mean difference, sign-flip test.

    Under "no difference" every pair's sign is a coin toss; up to 16 pairs all tosses are counted,
    beyond that `resamples` of them.
    """
    if len(first) != len(second):
        raise FluxGuardError(f"Pairs are needed; got {len(first)} and {len(second)} values.")
    gaps = _values(first, 2) - _values(second, 2)
    interval = bootstrap_mean(gaps.tolist(), confidence, resamples=resamples, seed=seed)
    count = gaps.numel()
    if count <= 16:
        codes = torch.arange(2**count).view(-1, 1)
        signs = ((codes >> torch.arange(count)) & 1).double() * 2 - 1
        extra = 0
    else:
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(2, (resamples, count), generator=generator).double() * 2 - 1
        extra = 1
    observed = gaps.mean().abs() - 1e-12
    hits = int(((signs * gaps).mean(1).abs() >= observed).sum())
    return Paired(interval, (hits + extra) / (signs.shape[0] + extra), count)


def paired_shares(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Exact McNemar p-value (two-sided): do two treatments succeed on different shares of subjects?"""
    if len(first) != len(second):
        raise FluxGuardError(f"Pairs are needed; got {len(first)} and {len(second)} values.")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    total, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(total, k) for k in range(least + 1)) / 2**total
    return min(1.0, 2 * tail)
