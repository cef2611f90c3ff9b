"""What stands under which heading: every table of a run, whatever prints it, is made of these columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from tokenlab.metrics.comparison import PairedAnswers
from tokenlab.metrics.latency import QUESTIONS, StageTimes
from tokenlab.metrics.summary import ArmSummary, Summary
from tokenlab.statistics.paired import Estimate

UNITS = ((1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"))
NOTHING = "-"
BEST, DOMINATED = "*", "<"

ANSWERS, SPEEDUP = ("against_baseline", "answers"), ("against_baseline", "speedup")
CALIBRATION = ("likelihoods", "calibration")
FURTHER = ("against_baseline", "further_divergence")


@dataclass(frozen=True)
class Column:
    """A heading and what stands under it for each arm.

    Attributes:
        heading: May be broken into lines.
        cell: What stands there.
        rank: Where there is too little room, the column of the highest rank goes first.
        path: Where the number lies in an arm's summary; empty for what is no number.
    """

    heading: str
    cell: Callable[[ArmSummary], str]
    rank: int = 0
    path: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The heading on one line."""
        return self.heading.replace("-\n", "-").replace("\n", " ")


@dataclass(frozen=True)
class FurtherTable:
    """A table besides the main one: its title, its columns, and the arms that it has something to say of."""

    title: str
    columns: list[Column]
    rows: list[ArmSummary]


def main_columns(summary: Summary, decimals: int | None = 1) -> list[Column]:
    """The columns of the main table.

    Args:
        summary: The run.
        decimals: Of the bounds of intervals; None leaves intervals out.
    """
    scale, unit = flops_unit(summary)
    level = "" if decimals is None else f"\n[{summary.level:.0%}]"
    columns = [
        Column("", mark),
        _column("visual\ntokens", ("cost", "visual_tokens_out"), three_digits, 2),
        _column("kept\n%", ("cost", "retention"), percent),
        Column(f"accuracy %{level}", partial(_accuracy, decimals=decimals), path=("accuracy", "mean")),
        Column(f"vs {summary.baseline}{level}", partial(_points, decimals=decimals), 1, (*ANSWERS, "points", "mean")),
        Column(f"loses\n< {summary.margin:g}", partial(_verdict, short=True), 4, (*ANSWERS, "verdict")),
        _column(f"{unit}\na query", ("cost", "flops", "total"), lambda flops: three_digits(flops / scale), 6),
        _column(f"x\n{summary.baseline}", ("against_baseline", "flops_ratio"), "{:.3f}".format, 3),
        _column("ms a\nquery", ("latency", "mean", "total"), three_digits, 7),
        Column(f"speed-up{level}", partial(_speedup, decimals=decimals), 5, (*SPEEDUP, "total", "mean")),
    ]
    if len({row.n for row in summary.arms}) > 1:
        columns.append(_column("asked", ("n",), str))
    if any(row.failed for row in summary.arms):
        columns.append(_column("failed", ("failed",), str))
    return columns


def further_tables(summary: Summary) -> list[FurtherTable]:
    """What there is to say besides the main table."""
    rows = by_budget(summary)
    others, timed = [row for row in rows if row.against_baseline], [row for row in rows if row.latency]
    scored, ranked = [row for row in rows if row.likelihoods], [row for row in rows if row.accuracy_by_stratum]
    further = [row for row in rows if row.reusable is not None]
    tables = [
        FurtherTable("Answers, %", answer_columns(summary), rows),
        FurtherTable("Answers by what questions need, %", stratum_columns(summary), ranked),
        FurtherTable(f"Answers against {summary.baseline}", comparison_columns(summary), others),
        FurtherTable("Likelihoods", likelihood_columns(summary), scored),
        FurtherTable("Milliseconds a query, means", stage_columns(summary), timed),
        FurtherTable(f"Time against {summary.baseline}", speedup_columns(summary), [r for r in others if r.latency]),
        FurtherTable("Queries a second, by prompts in a batch", throughput_columns(timed), timed),
        FurtherTable("Milliseconds a question, one medium asked about", asked_columns(), timed),
        FurtherTable("Further questions about a video", reuse_columns(summary), further),
    ]
    return [table for table in tables if table.columns and table.rows]


def by_budget(summary: Summary) -> list[ArmSummary]:
    """Arms by budget, the baseline before all others of its own, and then by accuracy."""

    def place(row: ArmSummary) -> tuple[float, bool, float]:
        budget = math.inf if row.standing.budget is None else float(row.standing.budget)
        return budget, row.arm != summary.baseline, -(row.accuracy.mean if row.accuracy else 0.0)

    return sorted(summary.arms, key=place)


def answer_columns(summary: Summary) -> list[Column]:
    """Accuracy by question type, where there are several."""
    if len(summary.types) < 2:
        return []
    columns = [_type_column(type_, summary) for type_ in summary.types]
    return [*columns, _column("mean over types", ("mean_over_types",), percent)]


def stratum_columns(summary: Summary) -> list[Column]:
    """Accuracy by what questions need."""
    return [
        _column(f"{each.name} (n={each.n})", ("accuracy_by_stratum", each.name, "mean"), percent)
        for each in summary.strata
        if each.n
    ]


def comparison_columns(summary: Summary) -> list[Column]:
    """Each arm's answers against the baseline's, question by question."""
    return [
        *_with_interval("points", (*ANSWERS, "points"), summary.level, "{:+.1f}".format),
        *([_column("gain kept %", ("visual_gain", "mean"), percent)] if summary.head else []),
        _column("p (Holm)", (*ANSWERS, "p_holm"), _p),
        _column("lost", (*ANSWERS, "lost"), str),
        _column("gained", (*ANSWERS, "gained"), str),
        _column("p (McNemar)", (*ANSWERS, "mcnemar"), _p),
        _column("same answer", ("against_baseline", "agreement"), percent),
        _column("drift %", ("against_baseline", "drift", "distance"), percent),
        _column("x length", ("against_baseline", "drift", "length_ratio"), "{:.2f}".format),
        Column(f"loses < {summary.margin:g}", _verdict, path=(*ANSWERS, "verdict")),
    ]


def likelihood_columns(summary: Summary) -> list[Column]:
    """How far each arm is from the untouched model, and how far its confidence can be believed."""
    columns = [
        _column("scored", ("likelihoods", "divergence", "n"), str),
        *_with_interval("KL, nats", ("likelihoods", "divergence"), summary.level, "{:.4f}".format),
        _column(f"less {summary.baseline}'s", (*FURTHER, "mean"), "{:+.4f}".format),
        _column("from", (*FURTHER, "low"), "{:+.4f}".format),
        _column("to", (*FURTHER, "high"), "{:+.4f}".format),
    ]
    if any(value_at(row, CALIBRATION) for row in summary.arms):
        columns.append(_column("Brier", (*CALIBRATION, "brier"), "{:.3f}".format))
        columns.append(_column("calibration error", (*CALIBRATION, "error"), "{:.3f}".format))
    return columns


def stage_columns(summary: Summary) -> list[Column]:
    """Where the time goes, and how it is distributed."""
    stages = [each.name for each in fields(StageTimes)]
    used = [name for name in stages if any(value_at(row, ("latency", "mean", name)) for row in summary.arms)]
    return [
        *(_column(name, ("latency", "mean", name), three_digits) for name in used),
        _column("total p50", ("latency", "median", "total"), three_digits),
        _column("total p95", ("latency", "p95", "total"), three_digits),
        _column("step p50", ("latency", "step_median"), three_digits),
        _column("step p95", ("latency", "step_p95"), three_digits),
        _column("MiB KV", ("cost", "kv_cache_bytes"), lambda size: three_digits(size / 2**20)),
    ]


def speedup_columns(summary: Summary) -> list[Column]:
    """What each arm saves of the baseline's time, and how much of what its FLOPs promise."""
    return [
        *_with_interval("speed-up", (*SPEEDUP, "total"), summary.level, "{:.2f}".format),
        _column("prefill", (*SPEEDUP, "prefill", "mean"), "{:.2f}".format),
        _column("realised", (*SPEEDUP, "realised"), "{:.2f}".format),
        _column("causal", (*SPEEDUP, "realised_causal"), "{:.2f}".format),
    ]


def asked_columns() -> list[Column]:
    """Milliseconds a question, where one medium is asked about several times."""
    return [Column(f"{times}x", partial(_asked_times, times=times)) for times in QUESTIONS]


def reuse_columns(summary: Summary) -> list[Column]:
    """Whether tokens that were chosen for the first question serve the next."""
    columns = [_column("same tokens %", ("reusable",), percent)]
    if any(row.reused for row in summary.arms):
        columns += _with_interval("with the first's: points", ("reused",), summary.level, "{:+.1f}".format)
    return columns


def throughput_columns(timed: Sequence[ArmSummary]) -> list[Column]:
    """Queries a second by prompts in a batch, where batches were timed."""
    sizes = sorted({size for row in timed if row.latency for size, _ in row.latency.throughput})
    return [Column(f"{size} at once", partial(_queries_a_second, size=size)) for size in sizes]


def value_at(part: Any, path: Sequence[str]) -> Any:
    """What lies at a path in a part of the summary; None where some part on the way is None."""
    for name in path:
        if part is None:
            return None
        part = part.get(name) if isinstance(part, dict) else getattr(part, name)
    return part


def mark(row: ArmSummary) -> str:
    """Whether an arm is best of its budget, or no one needs it."""
    return DOMINATED if row.standing.dominated_by else BEST if row.standing.best else ""


def flops_unit(summary: Summary) -> tuple[float, str]:
    """The unit in which a run's FLOPs are best read, and how many it is."""
    most = max((row.cost.flops.total for row in summary.arms if row.cost), default=0.0)
    return next(((scale, unit) for scale, unit in UNITS if most >= scale), UNITS[-1])


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f}"


def three_digits(value: float) -> str:
    """Three significant digits, all digits before the point, at most three after it."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{min(3, max(0, digits))}f}"


def _column(heading: str, path: tuple[str, ...], spell: Callable[[Any], str], rank: int = 0) -> Column:
    """A column of numbers of the summary; a dash where there is none."""

    def cell(row: ArmSummary) -> str:
        value = value_at(row, path)
        return NOTHING if value is None else spell(value)

    return Column(heading, cell, rank, path)


def _with_interval(heading: str, path: tuple[str, ...], level: float, spell: Callable[[Any], str]) -> list[Column]:
    """Columns of a figure and of the bounds of its interval."""
    bounds = (heading, "mean"), (f"{level:.0%} from", "low"), ("to", "high")
    return [_column(name, (*path, bound), spell) for name, bound in bounds]


def _type_column(type_: str, summary: Summary) -> Column:
    n = max((row.accuracy_by_type[type_].n for row in summary.arms if type_ in row.accuracy_by_type), default=0)
    return _column(f"{type_ or 'no type'} (n={n})", ("accuracy_by_type", type_, "mean"), percent)


def _accuracy(row: ArmSummary, decimals: int | None) -> str:
    if row.accuracy is None:
        return NOTHING
    bounds = [100 * row.accuracy.low, 100 * row.accuracy.high]
    return f"{percent(row.accuracy.mean)}{_bounds(bounds, decimals, '')}"


def _points(row: ArmSummary, decimals: int | None) -> str:
    answers: PairedAnswers | None = value_at(row, ANSWERS)
    if answers is None:
        return NOTHING
    points = answers.points
    return f"{points.mean:+.1f}{_bounds([points.low, points.high], decimals, '+')}"


def _speedup(row: ArmSummary, decimals: int | None) -> str:
    ratio: Estimate | None = value_at(row, (*SPEEDUP, "total"))
    if ratio is None:
        return NOTHING
    bounds = [bound for bound in (ratio.low, ratio.high) if bound is not None]
    return f"{ratio.mean:.2f}x{_bounds(bounds, None if decimals is None else 1 + decimals, '')}"


def _bounds(bounds: Iterable[float], decimals: int | None, sign: str) -> str:
    joined = ", ".join(f"{bound:{sign}.{decimals}f}" for bound in bounds) if decimals is not None else ""
    return f" [{joined}]" if joined else ""


def _asked_times(row: ArmSummary, times: int) -> str:
    return NOTHING if row.latency is None else three_digits(dict(row.latency.by_questions)[times])


def _queries_a_second(row: ArmSummary, size: int) -> str:
    found = dict(row.latency.throughput).get(size) if row.latency else None
    return NOTHING if found is None else three_digits(found)


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _verdict(row: ArmSummary, short: bool = False) -> str:
    """A verdict, or how many questions it would take."""
    answers: PairedAnswers | None = value_at(row, ANSWERS)
    if answers is None or answers.verdict != "cannot tell":
        return NOTHING if answers is None else answers.verdict
    needed = "over a million" if answers.samples_needed is None else f"{answers.samples_needed:,}"
    return "?" if short else f"cannot tell; needs {needed}"
