"""Which arms are comparable, which of those is best, and which no one needs: budgets and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIKE = 0.9
"""Arms that keep at least this share of what the first of a budget keeps belong to it."""


@dataclass(frozen=True)
class Point:
    """What an arm keeps, costs and gets right; None where that is unknown."""

    arm: str
    retention: float | None
    flops: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Standing:
    """An arm among the others of its run.

    Attributes:
        budget: Arms that keep about the same share of the tokens have the same number; 0 keeps most. None where every
            sample failed.
        best: Whether none of its budget is more accurate.
        dominated_by: The most accurate arm that is at least as accurate for no more FLOPs, and better in one of the
            two; estimates are taken at their word.
    """

    budget: int | None
    best: bool
    dominated_by: str | None


def standings(points: Sequence[Point]) -> dict[str, Standing]:
    """Each arm's place among all.

    >>> found = standings([Point("full", 1, 9, 0.9), Point("good", 0.25, 4, 0.8), Point("bad", 0.24, 5, 0.7)])
    >>> found["good"], found["bad"].dominated_by
    (Standing(budget=1, best=True, dominated_by=None), 'good')
    """
    budgets = _budgets(points)
    best: dict[int, float] = {}
    for point in points:
        if point.accuracy is not None and (budget := budgets.get(point.arm)) is not None:
            best[budget] = max(best.get(budget, 0.0), point.accuracy)
    return {
        point.arm: Standing(
            budget=budgets.get(point.arm),
            best=point.accuracy is not None and best.get(budgets.get(point.arm, -1)) == point.accuracy,
            dominated_by=_dominator(point, points),
        )
        for point in points
    }


def _budgets(points: Sequence[Point]) -> dict[str, int]:
    found: dict[str, int] = {}
    number, first = -1, 0.0
    for retention, arm in sorted(((p.retention, p.arm) for p in points if p.retention is not None), reverse=True):
        if number < 0 or retention < ALIKE * first:
            number, first = number + 1, retention
        found[arm] = number
    return found


def _dominator(point: Point, points: Sequence[Point]) -> str | None:
    if point.accuracy is None or point.flops is None:
        return None
    others = [
        (other.accuracy, other.arm)
        for other in points
        if other.accuracy is not None
        and other.flops is not None
        and other.accuracy >= point.accuracy
        and other.flops <= point.flops
        and (other.accuracy, other.flops) != (point.accuracy, point.flops)
    ]
    return max(others)[1] if others else None
