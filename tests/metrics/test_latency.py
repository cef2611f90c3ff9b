"""Times, worked out by hand."""

import math

import pytest

from tokenlab.metrics.latency import ceilings, latency_of, speedup_of
from tokenlab.metrics.record import Flops, Milliseconds, Record


def record(uid, milliseconds, prefill=100, masked=0, **fields):
    question = (str(uid), f"v{uid}", "arm", "h", "", "?", ["red"])
    return Record(*question, flops=Flops(prefill=prefill, masked=masked), milliseconds=milliseconds, **fields)


def times(**milliseconds):
    return Milliseconds(**{"file": 1.0, "processing": 2.0, "tower": 7.0, "prefill": 20.0, **milliseconds})


def test_percentiles_are_each_stage_s_own():
    found = latency_of([record(uid, times(decode=float(uid), steps=(2.0, float(uid)))) for uid in range(101)])
    assert (found.n, found.mean.total, found.median.total, found.p95.total) == (101, 80, 80, 125)
    assert (found.median.decode, found.p95.decode) == (50, 95)
    assert found.step_median == 2
    assert latency_of([record(0, None)]) is None


def test_a_medium_that_is_asked_often_is_encoded_once():
    shared, chosen = record(0, times()), record(1, times(), frames_by_question=True)
    assert dict(latency_of([shared]).by_questions) == {1: 30, 2: 25, 5: 22, 20: 20.5}
    assert dict(latency_of([chosen]).by_questions) == {1: 30, 2: 29.5, 5: 29.2, 20: 29.05}


def test_longer_answers_approach_the_ratio_of_steps():
    slow = [record(uid, times(decode=4.0, steps=(4.0,))) for uid in range(3)]
    fast = [record(uid, times(prefill=10.0, decode=1.0, steps=(1.0,))) for uid in range(3)]
    assert dict(latency_of(slow).by_answer_tokens)[8] == 30 + 7 * 4
    speedup = speedup_of(fast, {each.uid: each for each in slow}, 0.95)
    assert dict(speedup.by_answer_tokens)[1] == 30 / 20
    assert dict(speedup.by_answer_tokens)[512] == pytest.approx((30 + 511 * 4) / (20 + 511))
    assert dict(ceilings(latency_of(slow)))[1] == 30 / 10
    assert latency_of([record(0, times())]).by_answer_tokens == ()  # nobody knows how long a step takes


def test_speedups_are_of_the_same_questions():
    full = {str(uid): record(uid, times(prefill=90.0 * (1 + uid)), 400, 100) for uid in range(4)}
    half = [record(uid, times(prefill=90.0 * (1 + uid) / 3)) for uid in range(3)]
    half.append(record(3, None))
    found = speedup_of(half, full, 0.95)
    assert found.prefill.mean == pytest.approx(3)
    assert found.prefill.n == 3
    ratios = [(10 + 90 * k) / (10 + 30 * k) for k in (1, 2, 3)]
    assert found.total.mean == pytest.approx(math.prod(ratios) ** (1 / 3))
    assert found.total.low < found.total.mean < found.total.high
    assert found.realised == pytest.approx(found.total.mean / 4)
    assert found.realised_causal == pytest.approx(found.total.mean / 3)
    assert speedup_of([record(0, None)], full, 0.95) is None


def test_throughput_is_of_batches_that_every_question_was_timed_in():
    rows = [
        record(0, times(), milliseconds_in_batches=[(2, 20.0), (4, 12.0)]),
        record(1, times(), milliseconds_in_batches=[(2, 30.0)]),
    ]
    assert latency_of(rows).throughput == ((1, pytest.approx(1000 / 30)), (2, pytest.approx(40)))
    assert latency_of([*rows, record(2, times())]).throughput == ()
