"""How far chance could have moved a mean of right and wrong answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of right and wrong answers and its confidence interval, all in [0, 1]."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int


def clustered_interval(
    correct: Sequence[bool] | Shaped[np.ndarray, " n"],
    clusters: Sequence[str] | Sequence[int] | Shaped[np.ndarray, " n"],
    level: float = LEVEL,
) -> Interval:
    """Interval of a mean of right and wrong answers that come in clusters (the questions of one video).

    Wilson's (1927) score interval on an effective sample size, with Student's t for the normal quantile, as surveys
    do: Korn & Graubard, Survey Methodology 24 (1998); Franco et al., J. Survey Statistics and Methodology 7 (2019).
    With n answers x, mean p, G clusters and u_g the sum of x - p in cluster g:

        V     = G / (G - 1) * sum(u_g ** 2) / n ** 2            variance of the mean, robust to clustering
        deff  = max(1, V / (p (1 - p) / n))                     design effect; a lucky estimate below 1 is not believed
        m     = n / deff,  t = Student's quantile at G - 1 degrees of freedom
        bounds = (p + t**2 / 2m -+ t sqrt(p (1 - p) / m + t**2 / 4m**2)) / (1 + t**2 / m)

    Where all answers are right, or all wrong, V says nothing: m = G then, as if a video's answers were one answer. One
    cluster says nothing about the others: [0, 1].

    Args:
        correct: Right or wrong, one per answer.
        clusters: The cluster of each answer.
        level: Confidence level.
    """
    x = np.asarray(correct, dtype=float)
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    n, count = len(x), len(names)
    if n == 0 or len(member) != n:
        raise ValueError(f"an interval needs answers, each with its cluster: got {n} answers, {len(member)} clusters")
    p = float(x.mean())
    if count == 1:
        return Interval(p, 0.0, 1.0, n, 1)
    m = _effective_size(x, member, count)
    t = float(stats.t.ppf((1 + level) / 2, count - 1))
    centre, half = p + t**2 / (2 * m), t * np.sqrt(p * (1 - p) / m + t**2 / (4 * m**2))
    low, high = (centre - half) / (1 + t**2 / m), (centre + half) / (1 + t**2 / m)
    # Rounding must not push a bound past the mean (at 0 and 1 they coincide) or out of [0, 1].
    return Interval(p, max(0.0, min(float(low), p)), min(1.0, max(float(high), p)), n, count)


def _effective_size(x: Float[np.ndarray, " n"], member: Int[np.ndarray, " n"], count: int) -> float:
    """Number of independent answers that would tell as much."""
    n, p = len(x), x.mean()
    independent = p * (1 - p) / n
    if independent == 0:
        return float(count)
    residuals = np.bincount(member, weights=x - p, minlength=count)
    robust = count / (count - 1) * (residuals**2).sum() / n**2
    return n / max(1.0, float(robust / independent))
