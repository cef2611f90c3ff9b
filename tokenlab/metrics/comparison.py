"""An arm against the baseline, on the same samples: what it loses, what it gains, and whether that is chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from tokenlab.metrics.answers import exact_match
from tokenlab.metrics.drift import Drift, drift_of
from tokenlab.metrics.latency import Speedup, speedup_of
from tokenlab.metrics.likelihoods import further_divergence
from tokenlab.metrics.record import Record
from tokenlab.statistics.paired import (
    Difference,
    Estimate,
    Verdict,
    difference_in_points,
    holm,
    mcnemar_midp,
    non_inferiority,
    p_value,
    samples_needed,
)


@dataclass(frozen=True)
class PairedAnswers:
    """Right and wrong answers of an arm and the baseline, question by question.

    Attributes:
        points: Difference of accuracy in percentage points, with its interval, clustered by video.
        p: Of no difference, by the same clustered t.
        p_holm: The same, so that it holds for all arms of the run together.
        mcnemar: Mid-p of McNemar's test, which takes the questions for independent.
        lost: Questions that the baseline has right and the arm wrong.
        gained: The other way about.
        verdict: Whether the arm loses less than the margin.
        samples_needed: About how many questions would settle that, where these do not; None where a million would not.
    """

    points: Difference
    p: float
    p_holm: float
    mcnemar: float
    lost: int
    gained: int
    verdict: Verdict
    samples_needed: int | None


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline, on the same samples; None where there is nothing to compare.

    Attributes:
        answers: Over the questions that both have been asked.
        by_type: By question type, the difference of accuracy in percentage points, with its interval.
        agreement: Share of the baseline's answers that the arm repeats, right or wrong; a failed sample does not.
        drift: How the answers differ besides; None where no question was answered by both.
        flops_ratio: Mean FLOPs / the baseline's, over the samples that both answered; below 1 is cheaper.
        causal_flops_ratio: The same of FLOPs that no mask hides.
        speedup: Of times; None where none were taken of both.
        further_divergence: How much further it is from the untouched model than the baseline is, nats a token; None
            where no likelihoods were taken of both.
    """

    answers: PairedAnswers | None
    by_type: dict[str, Difference]
    agreement: float | None
    drift: Drift | None
    flops_ratio: float | None
    causal_flops_ratio: float | None
    speedup: Speedup | None
    further_divergence: Estimate | None


def compare_all(
    arms: Mapping[str, Mapping[str, Record]], baseline: Mapping[str, Record], level: float, margin: float
) -> dict[str, Comparison]:
    """Every arm against the baseline; their p-values, adjusted, hold together.

    Args:
        arms: Records by arm and uid.
        baseline: Those of the arm that they are compared with.
        level: Confidence level of the intervals.
        margin: Percentage points that an arm may lose and still pass for the baseline.
    """
    answers = {name: _paired_answers(list(arm.values()), baseline, level, margin) for name, arm in arms.items()}
    known = {name: each for name, each in answers.items() if each is not None}
    together = dict(zip(known, holm([each.p for each in known.values()]), strict=True))
    adjusted = {name: replace(each, p_holm=together[name]) for name, each in known.items()}
    return {name: _compare(list(arm.values()), baseline, adjusted.get(name), level) for name, arm in arms.items()}


def _compare(
    records: Sequence[Record], baseline: Mapping[str, Record], answers: PairedAnswers | None, level: float
) -> Comparison:
    """What remains to be compared besides right and wrong."""
    referenced = [pair for pair in _pairs(records, baseline) if pair[1].status == "ok"]
    answered = [pair for pair in referenced if pair[0].status == "ok"]

    def ratio(value: Callable[[Record], float]) -> float | None:
        ours, theirs = (float(sum(value(pair[side]) for pair in answered)) for side in (0, 1))
        return ratio_of(ours, theirs)

    types: dict[str, list[tuple[Record, Record]]] = {}
    for pair in _scored(records, baseline):
        types.setdefault(pair[0].type, []).append(pair)
    return Comparison(
        answers=answers,
        by_type={type_: difference_in_points(*_right(types[type_]), level) for type_ in sorted(types)},
        agreement=fmean(_same_answer(*pair) for pair in referenced) if referenced else None,
        drift=drift_of(answered),
        flops_ratio=ratio(lambda r: r.flops.total),
        causal_flops_ratio=ratio(lambda r: r.flops.causal),
        speedup=speedup_of(records, baseline, level),
        further_divergence=further_divergence(answered, level),
    )


def _paired_answers(
    records: Sequence[Record], baseline: Mapping[str, Record], level: float, margin: float
) -> PairedAnswers | None:
    """None where no question of both has a right answer."""
    pairs = _scored(records, baseline)
    if not pairs:
        return None
    ours, theirs, clusters = _right(pairs)
    points = difference_in_points(ours, theirs, clusters, level)
    verdict, p = non_inferiority(points, margin), p_value(points, level)
    undecided = verdict == "cannot tell"
    return PairedAnswers(
        points=points,
        p=p,
        p_holm=p,
        mcnemar=mcnemar_midp(ours, theirs),
        lost=sum(b and not a for a, b in zip(ours, theirs, strict=True)),
        gained=sum(a and not b for a, b in zip(ours, theirs, strict=True)),
        verdict=verdict,
        samples_needed=samples_needed(ours, theirs, clusters, margin / 100, level=level) if undecided else None,
    )


def _right(pairs: Sequence[tuple[Record, Record]]) -> tuple[list[bool], list[bool], list[str]]:
    """Whether the arm is right, whether the baseline is, and the question's video."""
    ours, theirs = ([pair[side].is_right for pair in pairs] for side in (0, 1))
    return ours, theirs, [record.cluster for record, _ in pairs]


def _scored(records: Sequence[Record], baseline: Mapping[str, Record]) -> list[tuple[Record, Record]]:
    """Pairs where somebody knows what is right."""
    return [pair for pair in _pairs(records, baseline) if pair[0].is_scored]


def _pairs(records: Sequence[Record], baseline: Mapping[str, Record]) -> list[tuple[Record, Record]]:
    return [(record, baseline[record.uid]) for record in records if record.uid in baseline]


def _same_answer(ours: Record, theirs: Record) -> bool:
    """Whether two arms say the same: choose the same option, or else use the same words."""
    if ours.status != "ok":
        return False
    if ours.choice is not None:
        return ours.choice == theirs.choice
    return exact_match(ours.answer or "", theirs.answer or "")


def ratio_of(numerator: float, denominator: float | None) -> float | None:
    """A ratio, where there is something to divide by."""
    return numerator / denominator if denominator else None
