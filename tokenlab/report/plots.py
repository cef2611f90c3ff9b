"""The pictures of a report: accuracy against each cost, where the time goes, and speed-ups by length of the answer."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokenlab.metrics.latency import Latency, StageTimes
from tokenlab.metrics.summary import ArmSummary, Summary
from tokenlab.report.columns import by_budget, flops_unit

INK = "#7d8590"  # legible on white and on black
STYLE: Any = {
    "svg.hashsalt": "tokenlab",  # the same picture twice is the same text
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
LABELS = 12
"""Arms that are named beside their points; more would cover one another."""


def pareto_plots(summary: Summary) -> Figure | None:
    """Accuracy against visual tokens, FLOPs and time, with intervals; None where no answer is expected."""
    rows = [row for row in by_budget(summary) if row.accuracy and row.cost]
    if not rows:
        return None
    scale, unit = flops_unit(summary)
    costs: dict[str, Callable[[ArmSummary], float | None]] = {
        "visual tokens": lambda row: row.cost and row.cost.visual_tokens_out,
        f"{unit} a query": lambda row: row.cost and row.cost.flops.total / scale,
    }
    if any(row.latency for row in rows):
        costs["ms a query"] = lambda row: row.latency and row.latency.mean.total
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(costs), 3.4), layout="constrained")
        for axes, (label, cost) in zip(figure.subplots(1, len(costs), squeeze=False)[0], costs.items(), strict=True):
            _pareto(axes, rows, cost)
            axes.set_xlabel(label)
            axes.set_ylabel("accuracy, %")
    return figure


def stage_bars(summary: Summary) -> Figure | None:
    """Each arm's time by stage, and what no method behind the tower can save (Amdahl); None without times."""
    rows = [row for row in reversed(by_budget(summary)) if row.latency]
    if not rows:
        return None
    stages = [each.name for each in fields(StageTimes) if each.name != "total"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 0.9 + 0.28 * len(rows)), layout="constrained")
        axes, left = figure.subplots(), [0.0] * len(rows)
        for number, stage in enumerate(stages):
            widths = [_stage(row.latency, stage) for row in rows]
            if any(widths):
                names = [row.arm for row in rows]
                axes.barh(names, widths, left=left, label=stage, color=mpl.colormaps["tab10"](number))
                left = [start + width for start, width in zip(left, widths, strict=True)]
        for row in rows:
            if row.arm == summary.baseline:
                fixed = sum(_stage(row.latency, stage) for stage in ("file", "processing", "tower"))
                axes.axvline(fixed, color=INK, linestyle="--", linewidth=1, label="before any method behind the tower")
        axes.set_xlabel("ms a query, mean")
        figure.legend(loc="outside upper center", ncols=5, fontsize=8)
    return figure


def answer_length_plot(summary: Summary) -> Figure | None:
    """Speed-ups by length of the answer, below their ceiling; None where no answer had a second token."""
    curves = {
        row.arm: row.against_baseline.speedup.by_answer_tokens
        for row in by_budget(summary)
        if row.against_baseline and row.against_baseline.speedup and row.against_baseline.speedup.by_answer_tokens
    }
    if not summary.ceilings or not curves:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.2), layout="constrained")
        axes = figure.subplots()
        for arm, curve in curves.items():
            axes.plot(*zip(*curve, strict=True), marker=".", label=arm)
        axes.plot(*zip(*summary.ceilings, strict=True), color=INK, linestyle="--", label="ceiling: a free LLM")
        axes.set(xscale="log", yscale="log", xlabel="tokens of the answer", ylabel=f"speed-up over {summary.baseline}")
        if len(curves) <= LABELS:
            axes.legend(fontsize=8, ncols=2)
    return figure


def as_svg(figure: Figure) -> str:
    """A figure as an element of an HTML page; the same figure is the same text."""
    text = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _pareto(axes: Axes, rows: list[ArmSummary], cost: Callable[[ArmSummary], float | None]) -> None:
    points = []
    for number, row in enumerate(rows):
        price = cost(row)
        if price is None or row.accuracy is None:
            continue
        mean, low, high = (100 * each for each in (row.accuracy.mean, row.accuracy.low, row.accuracy.high))
        colour = mpl.colormaps["tab20"](number % 20)
        axes.errorbar(price, mean, [[mean - low], [high - mean]], fmt="o", markersize=4, linewidth=1, color=colour)
        if len(rows) <= LABELS:
            axes.annotate(row.arm, (price, mean), xytext=(4, 3), textcoords="offset points", fontsize=7)
        points.append((price, mean))
    best, front = float("-inf"), []
    for price, mean in sorted(points, key=lambda point: (point[0], -point[1])):
        if mean > best:
            best = mean
            front.append((price, mean))
    if front:
        axes.step(*zip(*front, strict=True), where="post", color=INK, linewidth=0.8, zorder=0)
    axes.margins(x=0.15)


def _stage(latency: Latency | None, stage: str) -> float:
    return getattr(latency.mean, stage) if latency else 0.0
