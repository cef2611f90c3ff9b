"""Where an arm's time goes, and what it saves: percentiles by stage, and ratios of times on the same questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean

import numpy as np

from tokenlab.metrics.record import Milliseconds, Record
from tokenlab.statistics.paired import Estimate, paired_ratio

QUESTIONS = (1, 2, 5, 20)
"""How often one medium may be asked about."""

ANSWER_TOKENS = (1, 8, 32, 128, 512)
"""How long answers may be."""


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds of a query; see `Milliseconds`."""

    file: float
    processing: float
    tower: float
    auxiliary: float
    decide: float
    apply: float
    prompt: float
    prefill: float
    decode: float
    total: float


@dataclass(frozen=True)
class Latency:
    """Times of an arm over the questions that were timed, each answered by itself.

    Attributes:
        n: Questions that were timed.
        mean: Their stages add up to the total.
        median: Each stage's own, so that they do not add up.
        p95: Likewise, the 95th percentile.
        step_median: Milliseconds of a decode step; None where every answer was one token.
        step_p95: Likewise.
        attention: Operators that computed attention.
        by_questions: Milliseconds a question, where one medium is asked about so often and encoded once.
        by_answer_tokens: Milliseconds a query, were each answer so long.
        throughput: Queries a second by prompts in a batch, as far as batches were timed on every question.
    """

    n: int
    mean: StageTimes
    median: StageTimes
    p95: StageTimes
    step_median: float | None
    step_p95: float | None
    attention: tuple[str, ...]
    by_questions: tuple[tuple[int, float], ...]
    by_answer_tokens: tuple[tuple[int, float], ...]
    throughput: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Speedup:
    """What an arm saves of the baseline's time, over the questions that both were timed on.

    Attributes:
        total: Baseline's time / the arm's, from the file to the answer: geometric mean of the questions' ratios.
        prefill: Likewise, of the prefill alone.
        realised: Speed-up / what the FLOPs promise, which is the baseline's / the arm's over the same questions.
        realised_causal: Likewise, of FLOPs that no mask hides.
        by_answer_tokens: Speed-up, were each answer so long.
    """

    total: Estimate
    prefill: Estimate
    realised: float
    realised_causal: float
    by_answer_tokens: tuple[tuple[int, float], ...]


def latency_of(records: Sequence[Record]) -> Latency | None:
    """The times of one arm; None where none were taken."""
    timed = _timed(records)
    times = list(map(_times, timed))
    if not times:
        return None
    steps = _steps(times)
    mean = _stage_times(times, fmean)
    return Latency(
        n=len(times),
        mean=mean,
        median=_stage_times(times, lambda values: float(np.median(values))),
        p95=_stage_times(times, lambda values: float(np.percentile(values, 95))),
        step_median=float(np.median(steps)) if steps else None,
        step_p95=float(np.percentile(steps, 95)) if steps else None,
        attention=tuple(sorted({name for record in timed for name in record.attention_kernels})),
        by_questions=tuple((number, _per_question(timed, number)) for number in QUESTIONS),
        by_answer_tokens=_by_answer_tokens(times),
        throughput=_throughput(timed),
    )


def speedup_of(records: Sequence[Record], baseline: Mapping[str, Record], level: float) -> Speedup | None:
    """What an arm saves; None where no question was timed with both."""
    theirs_by_uid = {record.uid: record for record in _timed(baseline.values())}
    pairs = [(record, theirs_by_uid[record.uid]) for record in _timed(records) if record.uid in theirs_by_uid]
    if not pairs:
        return None
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    clusters = [record.cluster for record in ours]

    def ratio(value: Callable[[Milliseconds], float]) -> Estimate:
        slow, fast = ([value(_times(record)) for record in side] for side in (theirs, ours))
        return paired_ratio(slow, fast, clusters, level)

    total = ratio(lambda times: times.total)
    lengths = zip(*(_by_answer_tokens(list(map(_times, side))) for side in (ours, theirs)), strict=False)
    return Speedup(
        total=total,
        prefill=ratio(lambda times: times.prefill),
        realised=total.mean * sum(r.flops.total for r in ours) / sum(r.flops.total for r in theirs),
        realised_causal=total.mean * sum(r.flops.causal for r in ours) / sum(r.flops.causal for r in theirs),
        by_answer_tokens=tuple((length, slow / fast) for (length, fast), (_, slow) in lengths),
    )


def ceilings(baseline: Latency) -> tuple[tuple[int, float], ...]:
    """The speed-up by length of the answer, were the LLM free: Amdahl's bound for all that acts behind the tower."""
    mean = baseline.mean
    before = mean.file + mean.processing + mean.tower
    return tuple((length, total / before) for length, total in baseline.by_answer_tokens if before)


def _timed(records: Iterable[Record]) -> list[Record]:
    """Records of questions that were timed up to an answer."""
    return [
        record for record in records if record.status == "ok" and record.milliseconds and record.milliseconds.prefill
    ]


def _per_question(timed: Sequence[Record], number: int) -> float:
    """Milliseconds a question: all that comes before a decision is shared, unless the question chose the frames."""
    total = 0.0
    for record in timed:
        times = _times(record)
        shared = times.file if record.frames_by_question else times.file + times.processing + times.tower
        total += times.total - shared * (1 - 1 / number)
    return total / len(timed)


def _by_answer_tokens(times: Sequence[Milliseconds]) -> tuple[tuple[int, float], ...]:
    """Milliseconds a query, were each answer so long; nothing where no answer had a second token."""
    steps = _steps(times)
    before = fmean(each.total for each in times) - fmean(each.decode for each in times)
    return tuple((length, before + fmean(steps) * (length - 1)) for length in ANSWER_TOKENS if steps)


def _throughput(timed: Sequence[Record]) -> tuple[tuple[int, float], ...]:
    """Queries a second by prompts in a batch; nothing where none but single prompts were timed."""
    sizes = sorted(set.intersection(*({size for size, _ in record.milliseconds_in_batches} for record in timed)))
    if not sizes:
        return ()
    alone = fmean(_times(record).total for record in timed)
    by_size = [(size, fmean(dict(record.milliseconds_in_batches)[size] for record in timed)) for size in sizes]
    return tuple((size, 1000 / milliseconds) for size, milliseconds in [(1, alone), *by_size])


def _steps(times: Sequence[Milliseconds]) -> list[float]:
    return [step for each in times for step in each.steps]


def _stage_times(times: Sequence[Milliseconds], average: Callable[[list[float]], float]) -> StageTimes:
    names = [each.name for each in fields(StageTimes)]
    return StageTimes(**{name: average([getattr(each, name) for each in times]) for name in names})


def _times(record: Record) -> Milliseconds:
    assert record.milliseconds is not None
    return record.milliseconds
