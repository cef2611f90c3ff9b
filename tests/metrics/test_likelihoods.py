"""What likelihoods say, worked out by hand."""

import math
from dataclasses import replace

import pytest

from tests.metrics.test_summary import record
from tokenlab.metrics.likelihoods import further_divergence, likelihoods_of
from tokenlab.metrics.summary import summarise
from tokenlab.report.captions import all_captions
from tokenlab.report.columns import further_tables
from tokenlab.statistics.paired import paired_difference

LEVEL = 0.95


def scored(values, arm="arm"):
    return [record(uid, arm, divergence=value, cluster=f"v{uid // 2}") for uid, value in enumerate(values)]


def with_options(shares, expected, uid=0):
    likelihoods = [math.log(share) - 3 for share in shares]
    return replace(record(uid, "arm", divergence=0.5, option_likelihoods=likelihoods), expected=expected)


def test_the_mean_and_its_interval():
    values = [0.2, 0.4, 0.1, 0.1]
    found = likelihoods_of([*scored(values), record(9, "arm")], LEVEL)
    assert found.divergence.mean == pytest.approx(0.2)
    by_pairs = paired_difference(values, [0.0] * 4, [0, 0, 1, 1])
    assert (found.divergence.low, found.divergence.high) == pytest.approx((max(0, by_pairs.low), by_pairs.high))
    assert likelihoods_of(scored([0.5, 0.5, 0.51, 0.51]), LEVEL).divergence.low > 0
    assert found.calibration is None
    assert likelihoods_of([record(0, "arm")], LEVEL) is None
    assert likelihoods_of(scored([0.3]), LEVEL).divergence.low is None


def test_arms_are_compared_question_by_question():
    theirs = scored([0.1, 0.1, 0.1, 0.1])
    found = further_divergence(list(zip(scored([0.3, 0.3, 0.3, 0.3]), theirs, strict=True)), LEVEL)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))
    assert further_divergence([(record(0, "arm"), theirs[0])], LEVEL) is None


def test_brier_is_the_distance_from_the_truth():
    rows = [with_options([0.7, 0.3], ["A"]), with_options([0.6, 0.4], ["B"], 1)]
    found = likelihoods_of(rows, LEVEL).calibration
    assert found.brier == pytest.approx((0.3**2 + 0.3**2 + 0.6**2 + 0.6**2) / 2)
    several = likelihoods_of([with_options([0.5, 0.5], ["A", "B"])], LEVEL).calibration
    assert several.brier == 0


def test_confidence_that_is_deserved_has_no_error():
    """Seven in ten right where it says 0.7; three in ten are right where it says 0.9."""
    rows = [with_options([0.7, 0.3], ["A"] if uid < 7 else ["B"], uid) for uid in range(10)]
    assert likelihoods_of(rows, LEVEL).calibration.error == pytest.approx(0, abs=1e-6)
    rows += [with_options([0.9, 0.1], ["A"] if uid < 3 else ["B"], 10 + uid) for uid in range(10)]
    found = likelihoods_of(rows, LEVEL).calibration
    assert found.error == pytest.approx((0.9 - 0.3) / 2, abs=1e-6)
    assert found.n == 20


def test_the_report_shows_them():
    summary = summarise([*scored([0.0] * 4, "full"), *scored([0.2, 0.4, 0.1, 0.1])])
    (table,) = [table for table in further_tables(summary) if table.title == "Likelihoods"]
    cells = {column.title: column.cell(summary.arms[1]) for column in table.columns if column.title != "to"}
    assert (cells["scored"], cells["KL, nats"], cells["less full's"]) == ("4", "0.2000", "+0.2000")
    assert any(line.startswith("KL:") for line in all_captions(summary))
    assert "Brier" not in cells
    with_letters = summarise([with_options([0.7, 0.3], ["A"]), with_options([0.6, 0.4], ["B"], 1)])
    (table,) = [table for table in further_tables(with_letters) if table.title == "Likelihoods"]
    assert table.columns[-2].cell(with_letters.arms[0]) == "0.450"
