"""What an arm has to show for itself: against its controls, and as a share of what looking gains at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

from tokenlab.compressors.controls import BLIND, CONTROLS, LOT, NATIVE
from tokenlab.metrics.record import Record
from tokenlab.statistics.paired import Difference, Estimate, difference_in_points, share_of_gain

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
    own, lots, native = arms[arm], dict[str, list[Answers]](), arms_of([NATIVE], arms)
    for name in next(iter(own.values())).controls:
        if name in arms and name not in native:
            lots.setdefault(name.split(LOT)[0], []).append(arms[name])
    found = []
    for control, records in lots.items():
        uids = [uid for uid, each in own.items() if each.is_scored and all(uid in lot for lot in records)]
        if uids:
            ours, theirs = _right(own, uids), [fmean(lot[uid].is_right for lot in records) for uid in uids]
            points = difference_in_points(ours, theirs, [own[uid].cluster for uid in uids], level)
            found.append(AgainstControl(control, points, points.low > 0))
    return (*found, *_against_native(arms, arm, level))


def _against_native(arms: Mapping[str, Answers], arm: str, level: float) -> Iterator[AgainstControl]:
    """An arm against smaller pictures that leave as many tokens, and against some that take as long.

    Of two sizes, one of which may be the pictures' own, that cost less and more than the arm, a mixture costs the same:
    whoever shows a share of the questions at the one and the rest at the other has the mean of their accuracies.
    """
    own = arms[arm]
    native = [name for name in arms_of([NATIVE], arms) if any(each.status == "ok" for each in arms[name].values())]
    if not native or set(next(iter(own.values())).methods) <= CONTROLS:
        return
    names = [arm, *arms_of([], arms)[:1], *native]
    uids = [uid for uid, each in own.items() if each.is_scored and all(uid in arms[name] for name in names)]
    for unit, cost in COSTS.items():
        known = [costs for uid in uids if None not in (costs := [cost(arms[name][uid]) for name in names])]
        if not known:
            continue
        wanted, *spent = map(fmean, zip(*known, strict=True))
        (less, smaller), (more, larger) = _rungs(wanted, sorted(zip(spent, names[1:], strict=True)))
        share = 0.0 if more == less else (wanted - less) / (more - less)
        mixed = [
            (1 - share) * low + share * high
            for low, high in zip(_right(arms[smaller], uids), _right(arms[larger], uids), strict=True)
        ]
        points = difference_in_points(_right(own, uids), mixed, [own[uid].cluster for uid in uids], level)
        is_equal = less <= wanted <= more
        control = f"smaller pictures at equal {unit}" if is_equal else f"{smaller}, the nearest in {unit}"
        yield AgainstControl(control, points, points.low > 0)


def _rungs(wanted: float, ladder: list[tuple[float, str]]) -> tuple[tuple[float, str], tuple[float, str]]:
    """The last rung that costs no more and the first that costs no less; the nearest one twice beyond either end."""
    below = [rung for rung in ladder if rung[0] <= wanted] or ladder[:1]
    above = [rung for rung in ladder if rung[0] >= wanted] or ladder[-1:]
    return below[-1], above[0]


COSTS: dict[str, Callable[[Record], float | None]] = {
    "tokens": lambda record: float(record.visual_tokens_out) if record.status == "ok" else None,
    "seconds": lambda record: record.milliseconds.total if record.status == "ok" and record.milliseconds else None,
}
"""What smaller pictures are set equal in, as far as it is known of an answer."""


def visual_gain(arm: Answers, baseline: Answers, blind: Answers, level: float) -> Estimate | None:
    """(arm - blind) / (baseline - blind): what is left of what looking gains; None where it gains nothing."""
    uids = [uid for uid, each in arm.items() if each.is_scored and uid in baseline and uid in blind]
    if not uids:
        return None
    return share_of_gain(
        _right(arm, uids), _right(baseline, uids), _right(blind, uids), [arm[uid].cluster for uid in uids], level
    )


def head_of(baseline: Answers, blind: Answers, level: float) -> Head | None:
    """What the questions give away, and what looking adds."""
    uids = [uid for uid, each in baseline.items() if each.is_scored and uid in blind]
    if not uids:
        return None
    nothing = _right(blind, uids)
    gain = difference_in_points(_right(baseline, uids), nothing, [baseline[uid].cluster for uid in uids], level)
    return Head(fmean(nothing), gain, gain.low > 0)


def arms_of(methods: list[str], arms: Mapping[str, Answers]) -> list[str]:
    """The arms that are made of these methods alone, whatever their names."""
    return [name for name, records in arms.items() if next(iter(records.values())).methods == methods]


def find_blind(arms: Mapping[str, Answers]) -> str | None:
    """The arm that sees nothing, if the run has one."""
    return next(iter(arms_of([BLIND], arms)), None)


def _right(records: Answers, uids: list[str]) -> list[float]:
    return [float(records[uid].is_right) for uid in uids]
