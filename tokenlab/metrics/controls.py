"""What an arm has to show for itself: against its controls, and as a share of what looking gains at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from tokenlab.metrics.record import Record
from tokenlab.statistics.paired import Difference, Share, paired_difference, share_of_gain

BLIND = "blind"
LOT = " #"
"""Stands between a control's name and the number of its lot."""

Answers = Mapping[str, Record]
"""An arm's records by question."""


@dataclass(frozen=True)
class AgainstControl:
    """An arm against one of its controls; several lots of one control count as their mean.

    Attributes:
        control: The control, without the number of a lot.
        points: The arm's accuracy less the control's in percentage points, with its interval.
        beaten: Whether the arm is certainly better.
    """

    control: str
    points: Difference
    beaten: bool


@dataclass(frozen=True)
class Head:
    """What a set of questions can tell at all.

    Attributes:
        blind: Accuracy of the model that sees nothing.
        gain: What the baseline gains by looking, in percentage points.
        can_rank: Whether that is certainly more than nothing; if not, the set cannot rank methods.
    """

    blind: float
    gain: Difference
    can_rank: bool


def against_controls(arms: Mapping[str, Answers], arm: str, level: float) -> tuple[AgainstControl, ...]:
    """An arm against each of its controls that the run has, over the questions that all of them were asked."""
    own, lots = arms[arm], dict[str, list[Answers]]()
    for name in next(iter(own.values())).controls:
        if name in arms:
            lots.setdefault(name.split(LOT)[0], []).append(arms[name])
    found = []
    for control, records in lots.items():
        uids = [uid for uid, each in own.items() if each.is_scored and all(uid in lot for lot in records)]
        if uids:
            theirs = [fmean(lot[uid].is_right for lot in records) for uid in uids]
            points = _points([own[uid] for uid in uids], theirs, level)
            found.append(AgainstControl(control, points, points.low > 0))
    return tuple(found)


def visual_gain(arm: Answers, baseline: Answers, blind: Answers, level: float) -> Share | None:
    """(arm - blind) / (baseline - blind): what is left of what looking gains; None where it gains nothing."""
    uids = [uid for uid, each in arm.items() if each.is_scored and uid in baseline and uid in blind]
    if not uids:
        return None
    ours, best, nothing = ([float(records[uid].is_right) for uid in uids] for records in (arm, baseline, blind))
    return share_of_gain(ours, best, nothing, [arm[uid].cluster for uid in uids], level)


def head_of(baseline: Answers, blind: Answers, level: float) -> Head | None:
    """What the questions give away, and what looking adds."""
    uids = [uid for uid, each in baseline.items() if each.is_scored and uid in blind]
    if not uids:
        return None
    theirs = [float(blind[uid].is_right) for uid in uids]
    gain = _points([baseline[uid] for uid in uids], theirs, level)
    return Head(fmean(theirs), gain, gain.low > 0)


def find_blind(arms: Mapping[str, Answers]) -> Answers | None:
    """The arm that sees nothing, whatever its name, if the run has one."""
    for records in arms.values():
        if [name for step in next(iter(records.values())).pipeline for name in step] == [BLIND]:
            return records
    return None


def _points(records: list[Record], theirs: list[float], level: float) -> Difference:
    ours = [float(record.is_right) for record in records]
    share = paired_difference(ours, theirs, [record.cluster for record in records], level)
    return replace(share, mean=100 * share.mean, low=100 * share.low, high=100 * share.high)
