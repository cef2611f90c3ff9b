"""Arms against their controls, worked out by hand."""

import pytest

from tests.metrics.test_summary import record
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
