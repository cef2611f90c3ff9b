"""What questions need: nothing, where they are answered blind; a coarse look; or more than that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from tokenlab.compressors.controls import NATIVE
from tokenlab.metrics.controls import Answers, arms_of, find_blind
from tokenlab.statistics.intervals import Interval, clustered_interval

COARSE = (NATIVE, "pool")
"""Controls that look coarsely; the first that a run has makes the stratum."""


@dataclass(frozen=True)
class Stratum:
    """Questions that need the same.

    Attributes:
        name: What they need.
        n: How many there are.
        made_by: The control whose right answers make it, which is not ranked in it; None for what controls leave.
    """

    name: str
    n: int
    made_by: str | None


@dataclass(frozen=True)
class Strata:
    """The strata of a run's questions, and the questions of each, by its name."""

    strata: tuple[Stratum, ...]
    uids: Mapping[str, frozenset[str]]

    def accuracies(self, arm: str, records: Answers, level: float) -> dict[str, Interval]:
        """An arm's accuracy by stratum; those that it made, or that were cut by it, are left out."""
        makers = [each.made_by for each in self.strata]
        found = {}
        for each in self.strata:
            own = [record for uid, record in records.items() if uid in self.uids[each.name]]
            if own and arm not in makers:
                clusters = [record.cluster for record in own]
                found[each.name] = clustered_interval([record.is_right for record in own], clusters, level)
        return found


def strata_of(arms: Mapping[str, Answers]) -> Strata | None:
    """Sorts the questions by which controls have them right; None where the run has no blind arm.

    Args:
        arms: Records by arm and uid.
    """
    blind, coarse = find_blind(arms), _coarsest(arms)
    if blind is None:
        return None
    makers = [("solved blind", blind)] + ([("needs a coarse look", coarse)] if coarse is not None else [])
    left = {uid for uid, each in arms[blind].items() if each.is_scored}
    if coarse is not None:
        left &= arms[coarse].keys()
    strata, uids = [], {}
    for name, maker in makers:
        uids[name] = frozenset(uid for uid in left if arms[maker][uid].is_right)
        left -= uids[name]
        strata.append(Stratum(name, len(uids[name]), maker))
    rest = "needs detail" if coarse is not None else "needs a look"
    return Strata((*strata, Stratum(rest, len(left), None)), uids | {rest: frozenset(left)})


def _coarsest(arms: Mapping[str, Answers]) -> str | None:
    found = next(filter(None, (arms_of([control], arms) for control in COARSE)), [])
    return min(found, key=lambda name: fmean(each.retention for each in arms[name].values()), default=None)
