"""The numbers of a report, worked out by hand on a small run, and again from its file."""

import json
from dataclasses import replace

import pytest

from tokenlab.errors import UserError
from tokenlab.metrics.record import Flops, Milliseconds, Record
from tokenlab.metrics.summary import read_records, summarise
from tokenlab.statistics.intervals import clustered_interval


def record(uid, arm, answer="red", **fields):
    """An answer to a question whose right answer is red; arms but `full` cost a half."""
    share = 1 if arm == "full" else 0.5
    defaults = {
        "cluster": f"video{uid // 2}",
        "type": "color" if uid % 2 else "shape",
        "visual_tokens_in": 100,
        "visual_tokens_out": int(100 * share),
        "tokens_after": [] if arm == "full" else [("pool", 80), ("pool", 50)],
        "prefill_tokens": int(100 * share) + 20,
        "flops": Flops(1000, 100, 0, int(4000 * share), 100),
        "milliseconds": Milliseconds(
            tower=10.0, decide=0.0 if arm == "full" else 1.0, prefill=40.0 * share, decode=5.0, steps=(5.0,)
        ),
    }
    fields = {"correct": answer == "red", **defaults, **fields}
    return Record(str(uid), arm=arm, arm_hash=arm, question="?", expected=["red"], answer=answer, **fields)


def failed(uid, arm):
    return replace(record(uid, arm), status="failed", error="no", answer=None, correct=None, flops=Flops(10**9))


@pytest.fixture
def run():
    """Four questions on two videos: `full` is right on 0, 1, 2; `half` on 0, 1, and fails on 2."""
    full = [record(0, "full"), record(1, "full"), record(2, "full"), record(3, "full", "blue")]
    half = [record(0, "half"), record(1, "half", "Red."), failed(2, "half"), record(3, "half", "green")]
    half[1] = replace(half[1], correct=True)
    return [one for pair in zip(full, half, strict=True) for one in pair]


def test_accuracy_counts_failed_samples_as_wrong(run):
    full, half = summarise(run).arms
    assert (full.arm, half.arm) == ("full", "half")
    assert (half.n, half.failed, full.failed) == (4, 1, 0)
    assert half.accuracy == clustered_interval([True, True, False, False], ["a", "a", "b", "b"])
    assert half.accuracy_by_type["shape"].mean == 0.5
    assert (half.mean_over_types, full.mean_over_types) == (0.5, 0.75)


def test_mean_over_types_is_unweighted(run):
    extra = [record(5, "full"), record(7, "full")]
    (full, _) = summarise(run + extra).arms
    assert full.accuracy.mean == pytest.approx(5 / 6)
    assert full.mean_over_types == pytest.approx((1 + 3 / 4) / 2)


def test_cost_leaves_failed_samples_out(run):
    cost = summarise(run).arms[1].cost
    assert (cost.visual_tokens_in, cost.visual_tokens_out, cost.retention, cost.prefill_tokens) == (100, 50, 0.5, 70)
    assert cost.tokens_after == (("pool", 80.0), ("pool", 50.0))
    assert (cost.flops.tower, cost.flops.prefill, cost.flops.total) == (1000, 2000, 3200)


def test_against_full_is_over_the_questions_both_have(run):
    summary = summarise([*run, record(4, "full", "blue"), record(6, "half", "blue")])
    full, half = (row.against_baseline for row in summary.arms)
    assert full is None
    assert half.answers.points.mean == pytest.approx(-25)
    assert (half.answers.lost, half.answers.gained) == (1, 0)
    assert half.agreement == 0.5  # the same on 0 and 1; failed on 2; another wrong answer on 3
    assert half.flops_ratio == pytest.approx(3200 / 5200)
    assert half.speedup.total.mean == pytest.approx(55 / 36)
    assert half.speedup.prefill.mean == pytest.approx(2)
    assert (summary.questions, summary.questions_of_all_arms, summary.clusters) == (6, 4, 4)


def test_failures_of_full_are_no_reference():
    rows = summarise([failed(0, "full"), record(0, "half"), record(1, "full"), record(1, "half")]).arms
    assert rows[1].against_baseline.agreement == 1
    assert rows[1].against_baseline.answers.points.mean == 50


def test_without_full_without_expected_answers_and_with_nothing_but_failures():
    row = summarise([replace(record(0, "half", "?"), expected=[], correct=None)]).arms[0]
    assert row.against_baseline is None
    assert row.accuracy is None
    assert row.mean_over_types is None
    row = summarise([record(0, "full"), failed(0, "half")]).arms[1]
    assert row.cost is None
    assert row.accuracy.mean == 0
    assert row.against_baseline.speedup is None
    assert summarise([]).arms == ()


def test_peak_memory_is_the_largest():
    rows = summarise([record(0, "full", peak_memory_bytes=3), record(1, "full", peak_memory_bytes=7)]).arms
    assert rows[0].peak_memory_bytes == 7


def test_two_runs_in_one_file_are_refused(run):
    with pytest.raises(UserError, match="'full' has two records of sample '0'"):
        summarise([*run, run[0]])
    with pytest.raises(UserError, match="two different settings"):
        summarise([*run, replace(record(9, "half"), arm_hash="other")])


def test_summary_can_be_recomputed_from_the_file(run, tmp_path):
    path = tmp_path / "records.jsonl"
    run[0] = replace(run[0], question="line\u2028separator\nand ümlaut")
    path.write_text("".join(one.to_json() + "\n" for one in run), encoding="utf-8")
    assert read_records(path) == run
    assert summarise(read_records(path)) == summarise(run)
    assert json.loads(summarise(run).to_json())["arms"][1]["against_baseline"]["answers"]["points"]["mean"] == -25


def test_a_record_cut_off_while_written_is_none(run, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(run[0].to_json() + "\n" + run[1].to_json()[:40], encoding="utf-8")
    assert read_records(path) == run[:1]


def test_p_values_of_several_arms_hold_together(run):
    other = [replace(each, arm="third", arm_hash="third") for each in run if each.arm == "half"]
    _, half, third = summarise([*run, *other]).arms
    assert half.against_baseline.answers.p_holm == min(1, 2 * half.against_baseline.answers.p)
    assert third.against_baseline == half.against_baseline


def test_any_arm_may_be_the_baseline(run):
    summary = summarise(run, baseline="half", margin=30)
    full, half = summary.arms
    assert half.against_baseline is None
    assert full.against_baseline.answers.points.mean == pytest.approx(25)
    assert full.against_baseline.flops_ratio == pytest.approx(5200 / 3200)
    assert (summary.baseline, summary.margin) == ("half", 30)


def test_a_margin_is_met_or_not_or_takes_more():
    """90 questions about 45 videos, of which the arm loses none, six, and ten."""

    def verdict(lost, margin):
        arms = [record(i, "full") for i in range(90)]
        arms += [record(i, "half", "blue" if i < lost else "red") for i in range(90)]
        return summarise(arms, margin=margin).arms[1].against_baseline.answers

    assert verdict(0, 10).verdict == "holds"
    assert verdict(30, 2).verdict == "fails"
    undecided = verdict(3, 4)
    assert undecided.verdict == "cannot tell"
    assert undecided.samples_needed > 90
