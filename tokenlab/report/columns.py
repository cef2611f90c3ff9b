"""What stands under which heading: every table of a run, whatever prints it, is made of these columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from tokenlab.metrics.comparison import PairedAnswers
from tokenlab.metrics.latency import QUESTIONS, Latency, StageTimes
from tokenlab.metrics.summary import ArmSummary, Cost, Summary

UNITS = ((1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"))
NOTHING = "-"
BEST, DOMINATED = "*", "<"

ANSWERS, SPEEDUP, MEAN = ("against_baseline", "answers"), ("against_baseline", "speedup"), ("latency", "mean")
TOKENS_LEFT, FLOPS, KV_CACHE = ("cost", "visual_tokens_out"), ("cost", "flops", "total"), ("cost", "kv_cache_bytes")
RATIO = ("against_baseline", "flops_ratio")


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
        Column("visual\ntokens", lambda row: _of_cost(row, lambda cost: cost.visual_tokens_out), 2, TOKENS_LEFT),
        Column("kept\n%", lambda row: percent(row.cost.retention if row.cost else None), path=("cost", "retention")),
        Column(f"accuracy %{level}", partial(_accuracy, decimals=decimals), path=("accuracy", "mean")),
        Column(f"vs {summary.baseline}{level}", partial(_points, decimals=decimals), 1, (*ANSWERS, "points", "mean")),
        Column(f"loses\n< {summary.margin:g}", partial(_verdict, short=True), 4, (*ANSWERS, "verdict")),
        Column(f"{unit}\na query", lambda row: _of_cost(row, lambda cost: cost.flops.total / scale), 6, FLOPS),
        Column(f"x\n{summary.baseline}", lambda row: number(_against(row, "flops_ratio"), ".3f"), 3, RATIO),
        Column("ms a\nquery", lambda row: _time(row, lambda latency: latency.mean.total), 7, (*MEAN, "total")),
        Column(f"speed-up{level}", partial(_total_speedup, decimals=decimals), 5, (*SPEEDUP, "total", "mean")),
    ]
    if len({row.n for row in summary.arms}) > 1:
        columns.append(Column("asked", lambda row: str(row.n), path=("n",)))
    if any(row.failed for row in summary.arms):
        columns.append(Column("failed", lambda row: str(row.failed), path=("failed",)))
    return columns


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
    return [*columns, Column("mean over types", lambda row: percent(row.mean_over_types), path=("mean_over_types",))]


def comparison_columns(summary: Summary) -> list[Column]:
    """Each arm's answers against the baseline's, question by question."""
    return [
        _answers_column("points", lambda each: f"{each.points.mean:+.1f}", "points", "mean"),
        _answers_column(f"{summary.level:.0%} from", lambda each: f"{each.points.low:+.1f}", "points", "low"),
        _answers_column("to", lambda each: f"{each.points.high:+.1f}", "points", "high"),
        *([Column("gain kept %", _gain, path=("visual_gain", "mean"))] if summary.head else []),
        _answers_column("p (Holm)", lambda each: _p(each.p_holm), "p_holm"),
        _answers_column("lost", lambda each: str(each.lost), "lost"),
        _answers_column("gained", lambda each: str(each.gained), "gained"),
        _answers_column("p (McNemar)", lambda each: _p(each.mcnemar), "mcnemar"),
        Column("same answer", lambda row: percent(_against(row, "agreement")), path=("against_baseline", "agreement")),
        Column(f"loses < {summary.margin:g}", _verdict, path=(*ANSWERS, "verdict")),
    ]


def stage_columns(summary: Summary) -> list[Column]:
    """Where the time goes, and how it is distributed."""
    stages = [each.name for each in fields(StageTimes)]
    used = [name for name in stages if any(row.latency and getattr(row.latency.mean, name) for row in summary.arms)]
    return [
        *(_time_column(name, "mean", name) for name in used),
        _time_column("total p50", "median", "total"),
        _time_column("total p95", "p95", "total"),
        _time_column("step p50", "step_median"),
        _time_column("step p95", "step_p95"),
        Column("MiB KV", lambda row: _of_cost(row, lambda cost: cost.kv_cache_bytes / 2**20), path=KV_CACHE),
    ]


def speedup_columns(summary: Summary) -> list[Column]:
    """What each arm saves of the baseline's time, and how much of what its FLOPs promise."""
    return [
        _speedup_column("speed-up", "total", "mean"),
        _speedup_column(f"{summary.level:.0%} from", "total", "low"),
        _speedup_column("to", "total", "high"),
        _speedup_column("prefill", "prefill", "mean"),
        _speedup_column("realised", "realised"),
        _speedup_column("causal", "realised_causal"),
    ]


def reuse_columns() -> list[Column]:
    """Milliseconds a question, where one medium is asked about several times."""
    return [Column(f"{times}x", partial(_asked_times, times=times)) for times in QUESTIONS]


def found(part: Any, path: Sequence[str]) -> Any:
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


def percent(share: float | None) -> str:
    """A share in percent."""
    return number(None if share is None else 100 * share, ".1f")


def number(value: float | None, spec: str, suffix: str = "") -> str:
    """A number, or a dash."""
    return NOTHING if value is None else f"{value:{spec}}{suffix}"


def three_digits(value: float) -> str:
    """Three significant digits, all digits before the point, at most three after it."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{min(3, max(0, digits))}f}"


def _gain(row: ArmSummary) -> str:
    return percent(row.visual_gain and row.visual_gain.mean)


def _accuracy(row: ArmSummary, decimals: int | None) -> str:
    if row.accuracy is None:
        return NOTHING
    bounds = [100 * row.accuracy.low, 100 * row.accuracy.high]
    return f"{100 * row.accuracy.mean:.1f}{_bounds(bounds, decimals, '')}"


def _points(row: ArmSummary, decimals: int | None) -> str:
    return _of_answers(
        row, lambda each: f"{each.points.mean:+.1f}{_bounds([each.points.low, each.points.high], decimals, '+')}"
    )


def _total_speedup(row: ArmSummary, decimals: int | None) -> str:
    speedup = None if row.against_baseline is None else row.against_baseline.speedup
    if speedup is None:
        return NOTHING
    bounds = [bound for bound in (speedup.total.low, speedup.total.high) if bound is not None]
    return f"{speedup.total.mean:.2f}x{_bounds(bounds, None if decimals is None else 1 + decimals, '')}"


def _bounds(bounds: Iterable[float], decimals: int | None, sign: str) -> str:
    found = ", ".join(f"{bound:{sign}.{decimals}f}" for bound in bounds) if decimals is not None else ""
    return f" [{found}]" if found else ""


def _type_column(type_: str, summary: Summary) -> Column:
    n = max((row.accuracy_by_type[type_].n for row in summary.arms if type_ in row.accuracy_by_type), default=0)

    def cell(row: ArmSummary) -> str:
        return percent(row.accuracy_by_type[type_].mean if type_ in row.accuracy_by_type else None)

    return Column(f"{type_ or 'no type'} (n={n})", cell, path=("accuracy_by_type", type_, "mean"))


def _of_cost(row: ArmSummary, value: Callable[[Cost], float]) -> str:
    return NOTHING if row.cost is None else three_digits(value(row.cost))


def _time(row: ArmSummary, value: Callable[[Latency], float | None]) -> str:
    found = None if row.latency is None else value(row.latency)
    return NOTHING if found is None else three_digits(found)


def _time_column(heading: str, *path: str) -> Column:
    return Column(heading, lambda row: _time(row, lambda latency: found(latency, path)), path=("latency", *path))


def _speedup_column(heading: str, *path: str) -> Column:
    def cell(row: ArmSummary) -> str:
        speedup = None if row.against_baseline is None else row.against_baseline.speedup
        return number(found(speedup, path), ".2f")

    return Column(heading, cell, path=(*SPEEDUP, *path))


def _answers_column(heading: str, cell: Callable[[PairedAnswers], str], *path: str) -> Column:
    return Column(heading, lambda row: _of_answers(row, cell), path=(*ANSWERS, *path))


def _asked_times(row: ArmSummary, times: int) -> str:
    return _time(row, lambda latency: dict(latency.by_questions)[times])


def _against(row: ArmSummary, name: str) -> float | None:
    return None if row.against_baseline is None else getattr(row.against_baseline, name)


def _of_answers(row: ArmSummary, cell: Callable[[PairedAnswers], str]) -> str:
    answers = None if row.against_baseline is None else row.against_baseline.answers
    return NOTHING if answers is None else cell(answers)


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _verdict(row: ArmSummary, short: bool = False) -> str:
    """A verdict, or how many questions it would take."""

    def cell(answers: PairedAnswers) -> str:
        if answers.verdict != "cannot tell":
            return answers.verdict
        needed = "over a million" if answers.samples_needed is None else f"{answers.samples_needed:,}"
        return "?" if short else f"cannot tell; needs {needed}"

    return _of_answers(row, cell)
