"""Arms against their controls, worked out by hand."""

from dataclasses import replace

import pytest

from tests.metrics.test_summary import record
from tokenlab.metrics.record import Milliseconds
from tokenlab.metrics.summary import summarise
from tokenlab.report.captions import short_captions


def arm(name, right, **fields):
    """Questions of a video each; answers outside `right` are wrong."""
    return [record(uid, name, "red" if uid in right else "blue", cluster=f"v{uid}", **fields) for uid in range(20)]


def rows(mine, *, blind=()):
    controls = ["random@0.5 #1", "random@0.5 #2", "pool@0.5", "blind", "not in this run"]
    return [
        *arm("full", range(20)),
        *arm("mine", mine, controls=controls),
        *arm("random@0.5 #1", range(4)),
        *arm("random@0.5 #2", range(8)),
        *arm("pool@0.5", range(15)),
        *arm("blind", blind, pipeline=[{"blind": {"retention_ratio": None}}]),
    ]


def test_lots_count_as_their_mean():
    row = summarise(rows(range(16))).arms[1]
    found = {each.control: each for each in row.against_controls}
    assert list(found) == ["random@0.5", "pool@0.5", "blind"]
    assert found["random@0.5"].points.mean == pytest.approx(100 * (16 - 6) / 20)
    assert found["random@0.5"].beaten
    assert found["pool@0.5"].points.mean == pytest.approx(5)
    assert not found["pool@0.5"].beaten


def test_what_does_not_beat_its_controls_is_said():
    said = list(short_captions(summarise(rows(range(16), blind=range(5)))))
    assert "mine does not certainly beat its controls: pool@0.5 (+5.0 [-5.5, +15.5])." in said
    assert "Blind, 25.0 % are right; looking gains +75.0 points [+54.2, +95.8]." in said
    assert not any("beat" in line for line in short_captions(summarise(rows(range(20)))) if line.startswith("mine"))


def test_the_share_of_the_gain():
    summary = summarise(rows(range(4, 16), blind=range(4)))
    mine = summary.arms[1]
    assert mine.visual_gain.mean == pytest.approx((12 - 4) / (20 - 4))
    assert mine.visual_gain.low < 0.5 < mine.visual_gain.high
    assert summary.arms[0].visual_gain is None
    assert summary.head.can_rank


def test_a_set_that_needs_no_eyes_cannot_rank():
    summary = summarise(rows(range(16), blind=range(20)))
    assert not summary.head.can_rank
    assert summary.arms[1].visual_gain is None
    assert any("cannot rank methods" in line for line in short_captions(summary))
    assert summarise([each for each in rows(range(16)) if each.arm != "blind"]).head is None


def against_native(mine_tokens=40, mine_prefill=60.0, sizes=((20, 20.0, 8), (60, 40.0, 14)), more=()):
    """`mine` has 16 of 20 right; `full`, of 100 tokens and 100 ms, has all; sizes: tokens, prefill, right."""

    def costing(name, right, method, tokens, prefill):
        cost = {"visual_tokens_out": tokens, "milliseconds": Milliseconds(prefill=prefill)}
        return arm(name, range(right), pipeline=[{method: {"retention_ratio": tokens / 100}}] if method else [], **cost)

    records = [*costing("full", 20, "", 100, 100.0), *costing("mine", 16, "topic", mine_tokens, mine_prefill)]
    for tokens, prefill, right in sizes:
        records += costing(f"native@0.{tokens}", right, "native", tokens, prefill)
    return {each.control: each.points.mean for each in summarise([*records, *more]).arms[1].against_controls}


def test_smaller_pictures_are_mixed_until_they_cost_the_same():
    """By tokens 40 lies midway between 20 and 60; by time 60 is a third of the way from 40 to the 100 of `full`."""
    found = against_native()
    assert found.keys() == {"smaller pictures at equal tokens", "smaller pictures at equal seconds"}
    assert found["smaller pictures at equal tokens"] == pytest.approx(100 * (16 - (8 + 14) / 2) / 20)
    assert found["smaller pictures at equal seconds"] == pytest.approx(100 * (16 - (14 + (20 - 14) / 3)) / 20)


def test_a_size_that_costs_the_same_stands_alone():
    assert against_native(mine_tokens=60)["smaller pictures at equal tokens"] == pytest.approx(100 * (16 - 14) / 20)


def test_beyond_the_ends_the_nearest_size_is_named():
    found = against_native(mine_tokens=10, mine_prefill=120.0)
    assert found["native@0.20, the nearest in tokens"] == pytest.approx(100 * (16 - 8) / 20)
    assert found["full, the nearest in seconds"] == pytest.approx(100 * (16 - 20) / 20)


def test_a_size_that_no_picture_could_be_brought_to_is_left_out():
    failed = [replace(each, status="failed", answer=None, correct=False) for each in arm("native@0.1", ())]
    records = [replace(each, pipeline=[{"native": {"retention_ratio": 0.1}}]) for each in failed]
    assert against_native(more=records) == against_native()


def test_without_smaller_pictures_nothing_is_said_of_them():
    assert against_native(sizes=()) == {}


def test_smaller_pictures_make_the_stratum_of_a_coarse_look():
    """Where there are none, pooling does."""
    blind = arm("blind", range(4), pipeline=[{"blind": {"retention_ratio": None}}])
    native = arm("native@0.2", range(8), pipeline=[{"native": {"retention_ratio": 0.2}}], visual_tokens_out=20)
    pool = arm("pool@0.5", range(15), pipeline=[{"pool": {"retention_ratio": 0.5}}])
    for added, maker in ((native, "native@0.2"), ([], "pool@0.5")):
        assert summarise([*arm("full", range(20)), *blind, *pool, *added]).strata[1].made_by == maker
