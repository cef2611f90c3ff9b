"""Marks of arms and strata of questions, worked out by hand."""

from dataclasses import replace

import pytest

from tests.metrics.test_summary import record
from tokenlab.metrics.marks import reusable, unreduced
from tokenlab.metrics.strata import strata_of
from tokenlab.metrics.summary import summarise
from tokenlab.report.captions import short_captions
from tokenlab.report.columns import further_tables


def arm(name, right, *, method=None, ratio=0.5, **fields):
    """Twenty questions, a video each; those in `right` are right."""
    pipeline = [] if method is None else [{method: {"retention_ratio": ratio, "positions": "keep"}}]
    fields = {"visual_tokens_out": round(100 * ratio) if method else 100, "pipeline": pipeline, **fields}
    return [record(uid, name, "red" if uid in right else "blue", cluster=f"v{uid}", **fields) for uid in range(20)]


def by_uid(records):
    return {each.uid: each for each in records}


def test_a_curve_that_turns_is_marked():
    rows = [
        *arm("full", range(20)),
        *arm("topic@0.5", range(6), method="topic"),
        *arm("topic@0.25", range(16), method="topic", ratio=0.25),
        *arm("topic@0.1", range(15), method="topic", ratio=0.1),
        *arm("text@0.5", range(1), method="text"),
    ]
    summary = summarise(rows)
    assert [(each.fewer, each.more) for each in summary.reversals] == [("topic@0.25", "topic@0.5")]
    assert summary.reversals[0].points.mean == pytest.approx(50)
    (said,) = [line for line in short_captions(summary) if line.startswith("Not monotone")]
    assert said.startswith("Not monotone: topic@0.25 is right more often than topic@0.5, which keeps more (+50.0 [")


def test_what_chance_may_have_turned_is_no_reversal():
    rows = [*arm("a", range(15), method="topic"), *arm("b", range(16), method="topic", ratio=0.25)]
    assert summarise(rows).reversals == ()


def test_a_reduction_that_did_not_happen_is_said():
    untouched = arm("idle", range(20), method="topic", visual_tokens_out=100)
    summary = summarise([*arm("full", range(20)), *untouched, *arm("good", range(9), method="text")])
    assert [row.unreduced for row in summary.arms] == [None, 1.0, 0.0]
    said = "idle left every token before 100.0% of its answers: there it reduced nothing."
    assert said in short_captions(summary)
    assert unreduced(arm("all", range(20), method="topic", ratio=1)) is None


def test_tokens_that_serve_further_questions():
    def asked(uid, video, chosen):
        return record(uid, "arm", cluster=video, tokens_hash=chosen)

    found = [asked(0, "a", "x"), asked(1, "a", "x"), asked(2, "a", "y"), asked(3, "b", "y"), asked(4, "b", "y")]
    assert reusable(found) == pytest.approx(2 / 3)
    assert reusable(found[:1]) is None
    summary = summarise(found)
    assert summary.arms[0].reusable == pytest.approx(2 / 3)
    (table,) = [table for table in further_tables(summary) if table.title.startswith("Further questions")]
    assert [column.cell(summary.arms[0]) for column in table.columns] == ["66.7"]


def test_what_further_questions_lose_by_the_tokens_of_the_first():
    """Of two that are asked twice in each of ten videos the second is wrong with them in five."""
    found = [
        replace(
            record(uid, "arm", cluster=f"v{uid // 3}", tokens_hash=str(uid)),
            correct_reused=None if uid % 3 == 0 else uid % 3 == 1 or uid < 15,
        )
        for uid in range(30)
    ]
    (row,) = (summary := summarise(found)).arms
    assert (row.reused.mean, row.reused.n, row.reused.clusters) == (pytest.approx(-25), 20, 10)
    (table,) = [table for table in further_tables(summary) if table.title.startswith("Further questions")]
    assert table.columns[1].cell(row) == "-25.0"
    assert summarise(found[:1]).arms[0].reused is None


def test_questions_fall_into_strata():
    rows = [
        *arm("full", range(20)),
        *arm("mine", range(2, 17), method="topic"),
        *arm("blind", range(4), method="blind", ratio=0),
        *arm("pool@0.5", range(12), method="pool"),
        *arm("pool@0.25", range(2, 10), method="pool", ratio=0.25),
    ]
    summary = summarise(rows)
    found = [(each.name, each.n, each.made_by) for each in summary.strata]
    assert found == [
        ("solved blind", 4, "blind"),
        ("needs a coarse look", 6, "pool@0.25"),
        ("needs detail", 10, None),
    ]
    by_arm = {row.arm: {name: each.mean for name, each in row.accuracy_by_stratum.items()} for row in summary.arms}
    assert by_arm["mine"] == {"solved blind": 0.5, "needs a coarse look": 1.0, "needs detail": 0.7}
    assert by_arm["full"] == dict.fromkeys(by_arm["mine"], 1.0)
    assert by_arm["blind"] == by_arm["pool@0.25"] == {}
    assert by_arm["pool@0.5"]["needs detail"] == 0.2
    titles = [table.title for table in further_tables(summary)]
    assert "Answers by what questions need, %" in titles


def test_without_a_blind_arm_there_are_no_strata():
    full, pooled = by_uid(arm("full", range(20))), by_uid(arm("pool", range(9), method="pool"))
    assert strata_of({"full": full, "pool": pooled}) is None
    blind = by_uid(arm("blind", range(3), method="blind", ratio=0))
    names = [each.name for each in strata_of({"full": full, "blind": blind}).strata]
    assert names == ["solved blind", "needs a look"]
