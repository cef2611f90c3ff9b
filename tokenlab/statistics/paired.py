"""Two arms on the same samples: how far they differ, whether one may stand in for the other, and what that needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

from tokenlab.statistics.intervals import LEVEL

Values = Sequence[float] | Sequence[bool] | Shaped[np.ndarray, " n"]
Clusters = Sequence[str] | Sequence[int] | Shaped[np.ndarray, " n"]


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences and its confidence interval, in the unit of the values."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int


def paired_difference(ours: Values, theirs: Values, clusters: Clusters, level: float = LEVEL) -> Difference:
    """Interval of the mean of `ours - theirs` on the same samples, which come in clusters (the questions of one video).

    Student's t over clusters, as Cameron & Miller, Journal of Human Resources 50 (2015), have it for a mean. With the
    n differences x, their mean d, G clusters and u_g the sum of x - d in cluster g:

        V      = G / (G - 1) * sum(u_g ** 2) / n ** 2,  t = Student's quantile at G - 1 degrees of freedom
        bounds = d -+ t sqrt(V)

    Where no sample differs, V says nothing: the bounds are then the largest share of clusters that could have differed
    unseen, 1 - (1 - level) ** (1 / G), times the largest difference that values in [0, 1] allow. One cluster says
    nothing about the others: [-1, 1].

    Args:
        ours: A value a sample, such as right or wrong.
        theirs: The other arm's, of the same samples in the same order.
        clusters: The cluster of each sample.
        level: Confidence level.

    Raises:
        ValueError: If there are no samples, or lengths differ.
    """
    x, member, count = _differences(ours, theirs, clusters)
    mean = float(x.mean())
    if count == 1:
        return Difference(mean, -1.0, 1.0, len(x), 1)
    if not x.any():
        unseen = 1 - (1 - level) ** (1 / count)
        return Difference(0.0, -unseen, unseen, len(x), count)
    half = _half_width(x, member, count, level)
    return Difference(mean, mean - half, mean + half, len(x), count)


def difference_in_points(ours: Values, theirs: Values, clusters: Clusters, level: float = LEVEL) -> Difference:
    """`paired_difference` of right and wrong answers, in percentage points."""
    share = paired_difference(ours, theirs, clusters, level)
    return replace(share, mean=100 * share.mean, low=100 * share.low, high=100 * share.high)


@dataclass(frozen=True)
class Estimate:
    """A figure of any unit and its confidence interval; of one cluster there is none."""

    mean: float
    low: float | None
    high: float | None
    n: int
    clusters: int


def clustered_mean(values: Values, clusters: Clusters, level: float = LEVEL) -> Estimate:
    """Interval of a mean of values in any unit, by the t of `paired_difference`.

    >>> clustered_mean([1.0, 3.0], ["a", "a"])
    Estimate(mean=2.0, low=None, high=None, n=2, clusters=1)
    """
    x, member, count = _differences(values, [0.0] * len(values), clusters)
    mean = float(x.mean())
    if count == 1:
        return Estimate(mean, None, None, len(x), 1)
    half = _half_width(x, member, count, level)
    return Estimate(mean, mean - half, mean + half, len(x), count)


def paired_ratio(ours: Values, theirs: Values, clusters: Clusters, level: float = LEVEL) -> Estimate:
    """Interval of the geometric mean of `ours / theirs` on the same samples: `paired_difference` of their logarithms.

    Raises:
        ValueError: If there are no samples, lengths differ, or a value is not above 0.
    """
    if min([*ours, *theirs], default=1.0) <= 0:
        raise ValueError("ratios need values above 0")
    logs = paired_difference(np.log(ours), np.log(theirs), clusters, level)
    low, high = (None, None) if logs.clusters == 1 else (exp(logs.low), exp(logs.high))
    return Estimate(exp(logs.mean), low, high, logs.n, logs.clusters)


def share_of_gain(
    ours: Values, best: Values, nothing: Values, clusters: Clusters, level: float = LEVEL
) -> Estimate | None:
    """Interval of mean(ours - nothing) / mean(best - nothing) on the same samples; None where best gains nothing.

    A ratio of means, linearised, with the clustered t of `paired_difference` (Cochran, Sampling Techniques, 3rd ed.,
    section 6.4): of the residuals (ours - nothing) - share (best - nothing), over the mean gain.
    """
    kept, _, _ = _differences(ours, nothing, clusters)
    gain, _, _ = _differences(best, nothing, clusters)
    if gain.mean() <= 0:
        return None
    share = float(kept.mean() / gain.mean())
    residual = paired_difference(kept, share * gain, clusters, level)
    half = (residual.high - residual.low) / 2 / float(gain.mean())
    low, high = (None, None) if residual.clusters == 1 else (share - half, share + half)
    return Estimate(share, low, high, residual.n, residual.clusters)


def mcnemar_midp(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """McNemar's mid-p of two arms' right and wrong answers; samples count as independent, clusters are not heeded.

    Fagerland, Lydersen & Laake, BMC Medical Research Methodology 13 (2013).

    >>> round(mcnemar_midp([True] * 6 + [False], [False] * 6 + [True]), 4)
    0.0703
    """
    gained = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    lost = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    total, fewer = gained + lost, min(gained, lost)
    if total == 0:
        return 1.0
    return min(1.0, float(2 * stats.binom.cdf(fewer, total, 0.5) - stats.binom.pmf(fewer, total, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values of several comparisons so that all hold together (Holm, Scand. J. Statistics 6, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    factors = len(p_values) - np.arange(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors))
    return adjusted.tolist()


def p_value(difference: Difference, level: float = LEVEL) -> float:
    """The two-sided p-value of no difference, by the interval's own t.

    >>> p_value(Difference(0.0, -0.1, 0.1, 100, 50))
    1.0
    """
    if difference.clusters == 1 or difference.mean == 0:
        return 1.0
    half = difference.high - difference.mean
    if half == 0:
        return 0.0
    degrees = difference.clusters - 1
    t = abs(difference.mean) / half * stats.t.ppf((1 + level) / 2, degrees)
    return float(2 * stats.t.sf(t, degrees))


Verdict = Literal["holds", "fails", "cannot tell"]
"""Whether an arm is worse than another by less than a margin: certainly so, certainly not, or neither."""


def non_inferiority(difference: Difference, margin: float) -> Verdict:
    """Whether an arm loses less than a margin against another.

    Args:
        difference: The arm's values less the other's.
        margin: The largest loss that is nothing, positive, in the same unit.

    >>> non_inferiority(Difference(0.0, -0.01, 0.01, 900, 300), margin=0.02)
    'holds'
    """
    if difference.low > -margin:
        return "holds"
    return "fails" if difference.high < -margin else "cannot tell"


def samples_needed(
    ours: Values,
    theirs: Values,
    clusters: Clusters,
    margin: float,
    power: float = 0.8,
    level: float = LEVEL,
    most: int = 1_000_000,
    draws: int = 400,
    seed: int = 0,
) -> int | None:
    """About how many samples would settle whether an arm loses less than a margin, were more like those at hand.

    The clusters at hand are drawn again and again, more of them each time, until the verdict is reached in `power` of
    the draws; then by halves between too few and enough.

    Args:
        ours: A value a sample.
        theirs: The other arm's.
        clusters: The cluster of each sample.
        margin: The largest loss that is nothing.
        power: In which share of the draws there is to be a verdict.
        level: Confidence level of the interval that decides.
        most: Where it gives up.
        draws: Of each number of clusters.
        seed: Of the draws.

    Returns:
        Samples, at the mean number a cluster; None where `most` would not do, or one cluster says too little.
    """
    x, member, count = _differences(ours, theirs, clusters)
    if count == 1:
        return None
    sums, sizes = np.bincount(member, weights=x, minlength=count), np.bincount(member, minlength=count)
    rng, per_cluster = np.random.default_rng(seed), len(x) / count

    def settled(number: int) -> bool:
        low, high = _drawn_bounds(sums, sizes, number, draws, level, rng)
        return bool(((low > -margin) | (high < -margin)).mean() >= power)

    enough = count
    while not settled(enough):
        enough *= 2
        if enough * per_cluster > most:
            return None
    few = enough // 2
    while enough - few > max(1, enough // 50):
        middle = (few + enough) // 2
        few, enough = (few, middle) if settled(middle) else (middle, enough)
    return round(enough * per_cluster)


def _drawn_bounds(
    sums: Float[np.ndarray, " g"],
    sizes: Int[np.ndarray, " g"],
    number: int,
    draws: int,
    level: float,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """The bounds of `paired_difference` on clusters drawn with replacement; a cluster is its sum and its size."""
    # how often each cluster is drawn says all: memory does not grow with the number of clusters
    times = rng.multinomial(number, np.full(len(sums), 1 / len(sums)), size=draws)
    n = times @ sizes
    mean = times @ sums / n
    square = times @ sums**2 - 2 * mean * (times @ (sums * sizes)) + mean**2 * (times @ sizes.astype(float) ** 2)
    variance = number / (number - 1) * np.maximum(square, 0) / n**2
    half = stats.t.ppf((1 + level) / 2, number - 1) * np.sqrt(variance)
    half = np.where(variance == 0, 1 - (1 - level) ** (1 / number), half)
    return mean - half, mean + half


def _differences(
    ours: Values, theirs: Values, clusters: Clusters
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"], int]:
    """Differences, the number of each one's cluster, and how many clusters there are."""
    first, second = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    if not len(first) or not len(first) == len(second) == len(member):
        raise ValueError(
            f"paired values need samples, each with its cluster: got {len(first)} and {len(second)} values, "
            f"{len(member)} clusters"
        )
    return first - second, member, len(names)


def _half_width(x: Float[np.ndarray, " n"], member: Int[np.ndarray, " n"], count: int, level: float) -> float:
    """Of the interval of a mean: Student's quantile times the standard error over clusters."""
    residuals = np.bincount(member, weights=x - x.mean(), minlength=count)
    error = float(np.sqrt(count / (count - 1) * (residuals**2).sum()) / len(x))
    return float(stats.t.ppf((1 + level) / 2, count - 1)) * error
