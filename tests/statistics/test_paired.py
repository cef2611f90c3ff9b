"""Paired statistics on planted data: coverage, power, verdicts, and statsmodels' own numbers."""

import numpy as np
import pytest
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests

from tokenlab.statistics.paired import (
    Difference,
    holm,
    mcnemar_midp,
    non_inferiority,
    p_value,
    paired_difference,
    paired_ratio,
    samples_needed,
    share_of_gain,
)

VIDEOS, QUESTIONS, RUNS = 60, 3, 2000


def planted(gap: float, runs: int = RUNS, videos: int = VIDEOS, spread: float = 0.15, seed: int = 0):
    """Two arms' right and wrong answers: videos are easy or hard for both, and arms share part of their luck."""
    rng = np.random.default_rng(seed)
    easy = np.clip(rng.normal(0.7, spread, (runs, videos, 1)), 0.1, 0.9)
    shift = rng.normal(0, 0.05, (runs, videos, 1))  # by which videos suit one arm better: correlated differences
    luck, own = rng.random((2, runs, videos, QUESTIONS))
    theirs = luck < easy
    ours = np.where(own < 0.5, luck, rng.random(luck.shape)) < np.clip(easy + shift + gap, 0, 1)
    return ours.reshape(runs, -1), theirs.reshape(runs, -1), np.repeat(np.arange(videos), QUESTIONS)


@pytest.fixture(scope="module")
def same():
    ours, theirs, clusters = planted(0.0)
    return [paired_difference(a, b, clusters) for a, b in zip(ours, theirs, strict=True)]


def test_no_difference_is_significant_as_often_as_the_level_says(same):
    significant = np.mean([not each.low <= 0 <= each.high for each in same])
    assert 0.035 <= significant <= 0.065


def test_p_values_are_uniform_where_nothing_differs(same):
    assert 0.035 <= np.mean([p_value(each) < 0.05 for each in same]) <= 0.065


@pytest.mark.parametrize("gap", [-0.1, 0.05])
def test_intervals_cover_the_planted_gap(gap):
    ours, theirs, clusters = planted(gap, seed=1)
    truth = (ours.mean() - theirs.mean()).item()
    covered = [
        each.low <= truth <= each.high
        for each in (paired_difference(a, b, clusters) for a, b in zip(ours, theirs, strict=True))
    ]
    assert 0.935 <= np.mean(covered) <= 0.965


def test_as_statsmodels_has_it():
    """Cluster-robust ordinary least squares of the differences on a constant."""
    ours, theirs, clusters = planted(0.1, runs=1)
    difference = paired_difference(ours[0], theirs[0], clusters)
    x = ours[0].astype(float) - theirs[0]
    fit = sm.OLS(x, np.ones(len(x))).fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "df_correction": True}, use_t=True
    )
    low, high = fit.conf_int()[0]
    assert difference.mean == pytest.approx(fit.params[0])
    assert (difference.low, difference.high) == pytest.approx((low, high), rel=1e-6)
    assert p_value(difference) == pytest.approx(fit.pvalues[0], rel=1e-6)


def test_holm_as_statsmodels_has_it():
    values = np.random.default_rng(0).random(12) ** 3
    assert holm(values.tolist()) == pytest.approx(multipletests(values, method="holm")[1].tolist())


def test_midp_lies_between_the_exact_p_and_nothing():
    from scipy.stats import binomtest

    ours, theirs = [True] * 9 + [False] * 2, [False] * 9 + [True] * 2
    exact = binomtest(2, 11, 0.5).pvalue
    assert exact / 2 < mcnemar_midp(ours, theirs) < exact
    assert mcnemar_midp([True, False], [True, False]) == 1


def test_where_no_sample_differs():
    """Of 60 videos without a difference, one in twenty-one may have had some."""
    low = paired_difference([1] * 60, [1] * 60, range(60)).low
    assert low == pytest.approx(-(1 - 0.05 ** (1 / 60)))
    assert paired_difference([1, 0], [1, 1], ["v", "v"]) == Difference(-0.5, -1, 1, 2, 1)


def test_verdicts():
    def verdict(low, high):
        return non_inferiority(Difference((low + high) / 2, low, high, 900, 300), 0.004)

    assert [verdict(-0.003, 0.01), verdict(-0.1, -0.05), verdict(-0.01, 0.01)] == ["holds", "fails", "cannot tell"]


def test_as_many_samples_as_are_said_to_be_needed_settle_it():
    """In about the share of runs that was asked for; half of them do not."""
    ours, theirs, clusters = planted(0.03, runs=1, videos=200, seed=3)
    margin = 0.01
    needed = samples_needed(ours[0], theirs[0], clusters, margin)
    gap = float(ours[0].mean() - theirs[0].mean())
    assert needed is not None
    sums = np.bincount(clusters, weights=ours[0].astype(float) - theirs[0])

    def settled(samples):
        rng, reached = np.random.default_rng(9), []
        for _ in range(300):
            drawn = rng.integers(0, 200, samples // QUESTIONS)
            x = sums[drawn] / QUESTIONS
            reached.append(non_inferiority(paired_difference(x, 0 * x, np.arange(len(x))), margin) != "cannot tell")
        return np.mean(reached)

    assert gap > -margin
    assert 0.7 <= settled(needed) <= 0.9
    assert settled(needed // 3) < 0.7


def test_what_no_number_of_samples_settles():
    """An arm that loses exactly the margin."""
    ours, theirs = [0] * 4 + [1] * 96, [1] * 100
    assert samples_needed(ours, theirs, range(100), margin=0.04) is None


def test_a_ratio_is_the_difference_of_logarithms():
    ours, theirs, clusters = [2.0, 8.0, 3.0], [1.0, 2.0, 1.0], ["a", "b", "c"]
    found = paired_ratio(ours, theirs, clusters)
    logs = paired_difference(np.log(ours), np.log(theirs), clusters)
    assert (found.mean, found.low, found.high) == pytest.approx(tuple(np.exp([logs.mean, logs.low, logs.high])))
    assert paired_ratio([2.0, 4.0], [1.0, 1.0], ["a", "a"]).low is None
    with pytest.raises(ValueError, match="above 0"):
        paired_ratio([1.0], [0.0], ["a"])


def test_intervals_of_a_share_of_the_gain_cover_what_is_planted():
    """60 videos of 4 questions each, the arm keeping 0.6 of a gain of 0.5."""
    rng, covered, runs = np.random.default_rng(3), 0, 600
    clusters = np.repeat(np.arange(60), 4)
    for _ in range(runs):
        video = np.repeat(rng.beta(4, 4, 60) * 0.4 + 0.3, 4)  # what is seen at all, by video
        nothing = rng.random(240) < 0.2
        best = nothing | (rng.random(240) < video / 0.8)
        ours = np.where(rng.random(240) < 0.6, best, nothing)
        share = share_of_gain(ours, best, nothing, clusters)
        covered += share.low <= 0.6 <= share.high
    assert 0.93 < covered / runs < 0.975
    assert share_of_gain([1.0], [0.0], [1.0], ["a"]) is None
