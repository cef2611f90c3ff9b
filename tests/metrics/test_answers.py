"""The clustered interval: its invariants, its coverage, and its stateful shell."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torchmetrics import MeanMetric

from tokenlab.metrics.answers import ClusteredAccuracy, exact_match
from tokenlab.statistics.intervals import clustered_interval

answers = st.lists(st.tuples(st.booleans(), st.sampled_from("abcdefgh")), min_size=1, max_size=60)


def split(pairs):
    return [right for right, _ in pairs], [cluster for _, cluster in pairs]


def bounds(interval):
    return pytest.approx((interval.mean, interval.low, interval.high), abs=1e-9)


def wilson(p, n, quantile):
    """Wilson's interval, written down a second time: the roots of (p - x)^2 = q^2 x (1 - x) / n."""
    a = quantile**2 / n
    low, high = np.sort(np.roots([1 + a, -(2 * p + a), p**2]).real)
    return low, high


@given(answers)
def test_interval_lies_in_the_unit_interval_around_the_mean(pairs):
    interval = clustered_interval(*split(pairs))
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.low < interval.high
    assert interval.mean == pytest.approx(np.mean(split(pairs)[0]))
    assert (interval.n, interval.clusters) == (len(pairs), len({cluster for _, cluster in pairs}))


@given(answers, st.randoms())
def test_interval_knows_no_order(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    one, other = clustered_interval(*split(pairs)), clustered_interval(*split(shuffled))
    assert (one.mean, one.low, one.high) == bounds(other)


@given(answers)
def test_interval_mirrors_when_right_and_wrong_are_swapped(pairs):
    correct, clusters = split(pairs)
    one = clustered_interval(correct, clusters)
    other = clustered_interval([not right for right in correct], clusters)
    assert (1 - one.mean, 1 - one.high, 1 - one.low) == bounds(other)


@given(answers)
def test_interval_holds_the_independent_wilson_interval(pairs):
    correct, clusters = split(pairs)
    interval = clustered_interval(correct, clusters)
    low, high = wilson(np.mean(correct), len(correct), stats.norm.ppf(0.975))
    assert interval.low <= low + 1e-6
    assert interval.high >= high - 1e-6


@given(answers)
def test_repeating_every_question_is_never_taken_for_new_evidence(pairs):
    """Not narrower than before, but where the estimate said that clusters help and was not believed at first."""
    correct, clusters = split(pairs)
    once, twice = clustered_interval(correct, clusters), clustered_interval(correct * 2, clusters * 2)
    count = len(set(clusters))
    p, n = np.mean(correct), len(correct)
    if count == 1 or p in (0, 1):
        assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
        return
    sums = [sum(right - p for right, name in pairs if name == cluster) for cluster in set(clusters)]
    robust = count / (count - 1) * sum(u**2 for u in sums) / n**2
    effective = min(2 * n, p * (1 - p) / robust) if robust > 0 else 2 * n
    assert (twice.low, twice.high) == pytest.approx(wilson(p, effective, stats.t.ppf(0.975, count - 1)), abs=1e-6)
    if effective <= n:
        assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=1e-6)


def test_one_answer_a_cluster_is_wilson_with_students_t():
    correct = [True] * 7 + [False] * 3
    interval = clustered_interval(correct, list(range(10)))
    deff = (10 / 9 * (7 * 0.3**2 + 3 * 0.7**2) / 100) / (0.7 * 0.3 / 10)
    assert (interval.low, interval.high) == pytest.approx(wilson(0.7, 10 / deff, stats.t.ppf(0.975, 9)))


def test_all_right_counts_clusters_and_one_cluster_counts_nothing():
    interval = clustered_interval([True] * 30, [index // 3 for index in range(30)])
    assert (interval.low, interval.high) == pytest.approx(wilson(1.0, 10, stats.t.ppf(0.975, 9)))
    alone = clustered_interval([True, False], ["v", "v"])
    assert (alone.mean, alone.low, alone.high) == (0.5, 0.0, 1.0)


def test_no_answers_or_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="0 answers"):
        clustered_interval([], [])
    with pytest.raises(ValueError, match="2 answers, 1 clusters"):
        clustered_interval([True, False], ["v"])


@pytest.mark.parametrize(("clusters", "each", "mean", "correlation"), [(70, 3, 0.7, 0.3), (20, 6, 0.85, 0.5)])
def test_interval_covers_the_truth(clusters, each, mean, correlation):
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(clusters), each)
    concentration = 1 / correlation - 1
    covered = 0
    for _ in range(1000):
        rates = rng.beta(mean * concentration, (1 - mean) * concentration, clusters)
        interval = clustered_interval(rng.random(len(names)) < rates[names], names)
        covered += interval.low <= mean <= interval.high
    assert covered / 1000 >= 0.92


@given(st.lists(answers, min_size=1, max_size=4))
def test_metric_is_the_interval_of_all_batches_and_its_mean_is_torchmetrics(batches):
    metric, reference = ClusteredAccuracy(), MeanMetric()
    for batch in batches:
        metric.update(*split(batch))
        reference.update(torch.tensor([float(right) for right, _ in batch]))
    values = metric.compute()
    interval = clustered_interval(*split([pair for batch in batches for pair in batch]))
    assert values["mean"].item() == pytest.approx(reference.compute().item(), abs=1e-6)
    assert values["low"].item() == pytest.approx(interval.low, abs=1e-6)
    assert values["high"].item() == pytest.approx(interval.high, abs=1e-6)


def test_exact_match_forgives_case_white_space_and_one_full_stop():
    assert exact_match("  The red\n circle. ", "the RED circle")
    assert exact_match("Yes .", "yes")
    assert exact_match("STRASSE", "straße")
    assert not exact_match("a red circle", "the red circle")
    assert not exact_match("red!", "red")
    assert not exact_match("red..", "red")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("café", "cafe\u0301"),
        ("CAFÉ", "cafe\u0301"),
        ("가", "\u1100\u1161"),
        ("re\u200bd", "red"),
        ("\ufeffred", "red"),
    ],
)
def test_two_spellings_of_one_string_are_equal(one, other):
    assert one != other
    assert exact_match(one, other)
    assert not exact_match(one, other + "s")


def test_letters_that_only_look_alike_are_not_equal():
    assert not exact_match("cafe", "café")
    assert not exact_match("\u0430", "a")  # Cyrillic
