"""What must be said of arms besides their means: nothing was reduced, tokens serve no other question, a curve turns."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from tokenlab.metrics.record import Record
from tokenlab.statistics.paired import Difference, difference_in_points

BUDGET = "retention_ratio"


@dataclass(frozen=True)
class Reversal:
    """Two arms of the same method, of which the one that keeps fewer tokens is certainly right more often.

    Attributes:
        fewer: The arm that keeps fewer.
        more: The one that keeps more.
        points: Accuracy of the first less the second's, in percentage points.
    """

    fewer: str
    more: str
    points: Difference


def reversals(arms: Mapping[str, Mapping[str, Record]], level: float) -> tuple[Reversal, ...]:
    """Where the curve of a method, its arms by their budgets, certainly goes down as tokens are added.

    Args:
        arms: Records by arm and uid.
        level: Confidence level of what is certain.
    """
    curves: dict[str, list[str]] = defaultdict(list)
    for name, records in arms.items():
        first = next(iter(records.values()))
        if first.pipeline:
            curves[_without_budgets(first)].append(name)
    found = []
    for names in curves.values():
        by_budget = sorted(names, key=lambda name: fmean(each.retention for each in arms[name].values()))
        for fewer, more in pairwise(by_budget):
            uids = [uid for uid, each in arms[fewer].items() if each.is_scored and uid in arms[more]]
            if not uids:
                continue
            less, much = ([arms[name][uid].is_right for uid in uids] for name in (fewer, more))
            points = difference_in_points(less, much, [arms[fewer][uid].cluster for uid in uids], level)
            if points.low > 0:
                found.append(Reversal(fewer, more, points))
    return tuple(found)


def unreduced(records: Sequence[Record]) -> float | None:
    """Share of an arm's answers before which it left every token, though it was to leave fewer; None where it was not.

    Args:
        records: The arm's answered samples.
    """
    budgets = [parameters.get(BUDGET) for step in records[0].pipeline for parameters in step.values()]
    if not budgets or all(budget == 1 for budget in budgets):
        return None
    return fmean(not record.is_reduced for record in records)


def reusable(records: Sequence[Record]) -> float | None:
    """Share of the further questions about a video for which an arm leaves the very tokens that it left for the first.

    None where no video was asked about twice.

    Args:
        records: The arm's answered samples.
    """
    first, same = dict[str, str](), list[bool]()
    for record in records:
        if record.cluster in first:
            same.append(record.tokens_hash == first[record.cluster])
        elif record.tokens_hash:
            first[record.cluster] = record.tokens_hash
    return fmean(same) if same else None


def reuse_of(records: Sequence[Record], level: float) -> Difference | None:
    """What further questions about a video lose by the tokens that were chosen for the first, in percentage points.

    None where they were not answered with those.

    Args:
        records: The arm's answered samples.
        level: Confidence level of the interval.
    """
    twice = [(record.correct_reused, record.is_right, record.cluster) for record in records]
    known = [each for each in twice if each[0] is not None]
    if not known:
        return None
    reused, own, clusters = zip(*known, strict=True)
    return difference_in_points(reused, own, clusters, level)


def _without_budgets(record: Record) -> str:
    steps = [
        {name: {key: value for key, value in parameters.items() if key != BUDGET} for name, parameters in step.items()}
        for step in record.pipeline
    ]
    return json.dumps(steps, sort_keys=True)
