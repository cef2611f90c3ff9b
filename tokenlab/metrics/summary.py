"""From records to the numbers of a report: whatever is printed at the end of a run is computed here."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from tokenlab.errors import UserError
from tokenlab.metrics.comparison import Comparison, compare_all
from tokenlab.metrics.controls import AgainstControl, Head, against_controls, find_blind, head_of, visual_gain
from tokenlab.metrics.cost import Cost, cost_of
from tokenlab.metrics.frontier import Point, Standing, standings
from tokenlab.metrics.latency import Latency, ceilings, latency_of
from tokenlab.metrics.likelihoods import ArmLikelihoods, likelihoods_of
from tokenlab.metrics.marks import Reversal, reusable, reuse_of, reversals, unreduced
from tokenlab.metrics.record import Record
from tokenlab.metrics.strata import Stratum, strata_of
from tokenlab.statistics.intervals import LEVEL, Interval, clustered_interval
from tokenlab.statistics.paired import Difference, Estimate

BASELINE = "full"  # the arm that others are compared with
HOPELESS, HOPELESS_VIDEOS = 20, 5  # questions, and videos, on all of which an arm fails before it is given up
MARGIN = 0.4  # percentage points that papers claim to lose at most


@dataclass(frozen=True)
class ArmSummary:
    """One arm's row.

    Attributes:
        pipeline: Its compressors with all their parameters.
        positions: Position policy of each step of the pipeline.
        n: Samples, failed ones included.
        given_up: Whether it failed on all of them, so that it was asked no more.
        failed: Failed samples; they count as wrong.
        standing: Its place among the other arms.
        accuracy: None where no answer is expected.
        mean_over_types: Unweighted mean of the accuracies by question type.
        cost: None where every sample failed.
        peak_memory_bytes: The largest of any timed sample; None where there is none or the device cannot tell.
        latency: None where no question was timed.
        changed_by_batch: Share of the timed questions that the arm answers otherwise alone than in a batch, which is
            the noise that differences between arms stand out from; None where none was answered both ways.
        likelihoods: None where no question was scored.
        accuracy_by_stratum: By what questions need; empty for the controls that tell, and where the run has none.
        unreduced: Share of the answers before which it left every token, though it was to leave fewer; None where not.
        reusable: Share of the further questions about a video for which the tokens left are those of the first; None
            where no video was asked about twice.
        reused: Accuracy on the further questions with the tokens of the first, less that with their own, in percentage
            points; None where they were not answered so.
        against_controls: Against each of its controls that the run has.
        visual_gain: What is left of what the baseline gains by looking; None where the run has no blind arm.
        against_baseline: None for the baseline itself, and where the run has no such arm.
    """

    arm: str
    arm_hash: str
    pipeline: tuple[dict[str, dict], ...]
    positions: tuple[str, ...]
    n: int
    given_up: bool
    failed: int
    standing: Standing
    accuracy: Interval | None
    accuracy_by_type: dict[str, Interval]
    mean_over_types: float | None
    cost: Cost | None
    peak_memory_bytes: int | None
    latency: Latency | None
    changed_by_batch: float | None
    likelihoods: ArmLikelihoods | None
    accuracy_by_stratum: dict[str, Interval]
    unreduced: float | None
    reusable: float | None
    reused: Difference | None
    against_controls: tuple[AgainstControl, ...]
    visual_gain: Estimate | None
    against_baseline: Comparison | None

    @property
    def method(self) -> str:
        """Names of its compressors, in order."""
        return " + ".join(name for step in self.pipeline for name in step)

    @property
    def ratio(self) -> str:
        """The budgets that they were set to, in order, where they have one."""
        found = [parameters.get("retention_ratio") for step in self.pipeline for parameters in step.values()]
        return " x ".join(f"{each:g}" for each in found if isinstance(each, float | int))


@dataclass(frozen=True)
class Summary:
    """All numbers of a report.

    Attributes:
        arms: In the order in which they first answered.
        questions: Distinct samples of any arm.
        questions_of_all_arms: Samples that every arm has been asked.
        questions_planned: What the run set out to ask; None where it does not say.
        complete: False where the run was interrupted.
        clusters: Distinct videos.
        level: Confidence level of the intervals.
        baseline: The arm that the others are compared with.
        margin: Percentage points that an arm may lose and still pass for the baseline.
        ceilings: By length of the answer, the baseline's time / what of it comes before the LLM: Amdahl's bound on the
            speed-up of all that acts behind the tower.
        padding_waste: Share of the positions that the LLM computed on padding.
        head: What the questions can tell at all; None where the run has no blind arm.
        strata: What the questions need, as controls tell; empty where the run has no blind arm.
        reversals: Arms that are certainly right less often than arms of the same method that keep fewer tokens.
        failures: Why samples failed, and how often, the most frequent first.
    """

    arms: tuple[ArmSummary, ...]
    questions: int
    questions_of_all_arms: int
    questions_planned: int | None
    complete: bool
    clusters: int
    types: tuple[str, ...]
    level: float
    baseline: str
    margin: float
    ceilings: tuple[tuple[int, float], ...]
    padding_waste: float | None
    head: Head | None
    strata: tuple[Stratum, ...]
    reversals: tuple[Reversal, ...]
    failures: tuple[tuple[str, int], ...]

    def to_json(self) -> str:
        """The text of `summary.json`."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n"


def is_hopeless(records: Sequence[Record]) -> bool:
    """Whether an arm that began like this need not go on: it failed on every question, of several videos."""
    if len(records) < HOPELESS or any(record.status == "ok" for record in records):
        return False
    return len({record.cluster for record in records}) >= HOPELESS_VIDEOS


def read_records(path: str | Path) -> list[Record]:
    """The records of a `records.jsonl`; a last line that was cut off while being written is none."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [Record.from_json(line) for line in lines[:-1]]


def summarise(
    records: Sequence[Record],
    *,
    level: float = LEVEL,
    baseline: str = BASELINE,
    margin: float = MARGIN,
    questions_planned: int | None = None,
    complete: bool = True,
    padding_waste: float | None = None,
) -> Summary:
    """All numbers of a report, from the records alone.

    Args:
        records: Of one run: each arm at most once on each sample.
        level: Confidence level of the intervals.
        baseline: The arm that the others are compared with, if it is there.
        margin: Percentage points that an arm may lose and still pass for the baseline.
        questions_planned: How many questions the run set out to ask.
        complete: Whether the run came to its end.
        padding_waste: Share of the positions that the LLM computed on padding; records are free of padding.
    """
    arms = _by_arm(records)
    others = {name: arm for name, arm in arms.items() if name != baseline}
    against = compare_all(others, arms[baseline], level, margin) if baseline in arms else {}
    blind, best = arms.get(find_blind(arms) or ""), arms.get(baseline)
    strata, rows = strata_of(arms), []
    for name, arm in arms.items():
        row = _arm_summary(list(arm.values()), against.get(name), level)
        gain = visual_gain(arm, best, blind, level) if best and blind and arm is not best and arm is not blind else None
        row = replace(row, against_controls=against_controls(arms, name, level), visual_gain=gain)
        rows.append(replace(row, accuracy_by_stratum=strata.accuracies(name, arm, level)) if strata else row)
    rows = _with_standings(rows)
    uids = [set(arm) for arm in arms.values()]
    return Summary(
        arms=rows,
        questions=len(set().union(*uids)),
        questions_of_all_arms=len(set.intersection(*uids)) if uids else 0,
        questions_planned=questions_planned,
        complete=complete,
        clusters=len({record.cluster for record in records}),
        types=tuple(sorted({record.type for record in records})),
        level=level,
        baseline=baseline,
        margin=margin,
        ceilings=_ceilings(rows, baseline),
        padding_waste=padding_waste,
        head=head_of(best, blind, level) if best and blind else None,
        strata=strata.strata if strata else (),
        reversals=reversals(arms, level),
        failures=tuple(Counter(record.error or "" for record in records if record.status == "failed").most_common()),
    )


def _by_arm(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """Records by arm and uid; two runs mixed into one file would make every mean meaningless."""
    arms: dict[str, dict[str, Record]] = {}
    for record in records:
        arm = arms.setdefault(record.arm, {})
        if record.uid in arm:
            raise UserError(f"arm {record.arm!r} has two records of sample {record.uid!r}: summarise one run at a time")
        if arm and next(iter(arm.values())).arm_hash != record.arm_hash:
            raise UserError(f"arm {record.arm!r} has records of two different settings: summarise one run at a time")
        arm[record.uid] = record
    return arms


def _with_standings(rows: Sequence[ArmSummary]) -> tuple[ArmSummary, ...]:
    points = [
        Point(
            row.arm,
            row.cost and row.cost.retention,
            row.cost and row.cost.flops.total,
            row.accuracy and row.accuracy.mean,
        )
        for row in rows
    ]
    found = standings(points)
    return tuple(replace(row, standing=found[row.arm]) for row in rows)


def _arm_summary(records: list[Record], against: Comparison | None, level: float) -> ArmSummary:
    types = defaultdict(list)
    for record in (record for record in records if record.is_scored):
        types[record.type].append(record)
    by_type = {type_: _accuracy(types[type_], level) for type_ in sorted(types)}
    answered = [record for record in records if record.status == "ok"]
    return ArmSummary(
        arm=records[0].arm,
        arm_hash=records[0].arm_hash,
        pipeline=tuple(records[0].pipeline),
        positions=tuple(records[0].positions),
        n=len(records),
        given_up=is_hopeless(records),
        failed=len(records) - len(answered),
        standing=Standing(None, False, None),  # until all arms are known
        accuracy=_accuracy([record for record in records if record.is_scored], level) if types else None,
        accuracy_by_type=by_type,
        mean_over_types=fmean(interval.mean for interval in by_type.values()) if by_type else None,
        cost=cost_of(answered) if answered else None,
        peak_memory_bytes=max((r.peak_memory_bytes for r in answered if r.peak_memory_bytes is not None), default=None),
        latency=latency_of(answered),
        changed_by_batch=_changed_by_batch(answered),
        likelihoods=likelihoods_of(answered, level),
        accuracy_by_stratum={},
        unreduced=unreduced(answered) if answered else None,
        reusable=reusable(answered),
        reused=reuse_of(answered, level),
        against_controls=(),
        visual_gain=None,
        against_baseline=against,
    )


def _changed_by_batch(records: list[Record]) -> float | None:
    twice = [record for record in records if record.answer_alone is not None and record.batch_size > 1]
    return fmean(record.answer != record.answer_alone for record in twice) if twice else None


def _accuracy(records: list[Record], level: float) -> Interval:
    return clustered_interval([r.is_right for r in records], [r.cluster for r in records], level)


def _ceilings(rows: tuple[ArmSummary, ...], baseline: str) -> tuple[tuple[int, float], ...]:
    for row in rows:
        if row.arm == baseline and row.latency is not None:
            return ceilings(row.latency)
    return ()
