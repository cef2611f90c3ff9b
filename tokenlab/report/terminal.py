"""The tables of a run, for the terminal and for a README; every number comes from the summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenlab.metrics.comparison import PairedAnswers
from tokenlab.metrics.summary import ArmSummary, Cost, Summary
from tokenlab.statistics.intervals import Interval

WIDE = 100  # columns of a terminal from which nothing is shortened
UNITS = ((1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs"))
NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """A heading and what stands under it for each arm."""

    heading: str
    cell: Callable[[ArmSummary], str]


def terminal_report(summary: Summary, width: int) -> Group:
    """All tables of a run with their captions, for a terminal of `width` columns."""
    parts: list[RenderableType] = [Text(headline(summary), style="bold")]
    if not summary.arms:
        return Group(*parts)
    parts.append(_arm_table(main_columns(summary, compact=width < WIDE), summary, width))
    parts += [Padding(Text(line), (0, 0, 0, 2)) for line in captions(summary)]
    compared = any(row.against_baseline for row in summary.arms)
    for title, columns in (
        ("Answers, %", answer_columns(summary)),
        (f"Against {summary.baseline}", comparison_columns(summary) if compared else []),
        ("Milliseconds a query", stage_columns()),
    ):
        if columns:
            parts += [Text(f"\n{title}", style="bold"), *_matrix(columns, summary, width)]
    return Group(*parts)


def headline(summary: Summary) -> str:
    """What was asked; an interrupted run says so first, and how far it came."""
    counts = ", ".join(
        f"{count} {noun}{'' if count == 1 else 's'}"
        for count, noun in ((summary.questions, "question"), (summary.clusters, "video"), (len(summary.arms), "arm"))
    )
    if summary.complete:
        return counts
    planned = "" if summary.questions_planned is None else f" of {summary.questions_planned}"
    return f"PARTIAL RUN: {summary.questions_of_all_arms}{planned} questions asked of every arm; in all {counts}"


def main_columns(summary: Summary, compact: bool = False) -> list[Column]:
    """The columns of the main table."""
    scale, unit = _flops_unit(summary)
    columns = [
        Column("visual\ntokens", lambda row: _cost_cell(row, lambda cost: cost.visual_tokens_out)),
        Column("kept\n%", lambda row: _percent(row.cost.retention if row.cost else None)),
        Column(f"accuracy %\n[{summary.level:.0%}]", lambda row: _interval(row.accuracy, decimals=0 if compact else 1)),
        Column(f"vs\n{summary.baseline}", lambda row: _format(_points(row), "+.1f")),
        Column(f"{unit}\na query", lambda row: _cost_cell(row, lambda cost: cost.flops.total / scale)),
        Column(f"x\n{summary.baseline}", lambda row: _format(_against(row, "flops_ratio"), ".3f")),
        Column("ms a\nquery", lambda row: _cost_cell(row, lambda cost: cost.milliseconds.total)),
        Column("speed-\nup", lambda row: _format(_against(row, "speedup"), ".2f", "x")),
    ]
    if len({row.n for row in summary.arms}) > 1:
        columns.append(Column("asked", lambda row: str(row.n)))
    if any(row.failed for row in summary.arms):
        columns.append(Column("failed", lambda row: str(row.failed)))
    return columns


def answer_columns(summary: Summary) -> list[Column]:
    """Accuracy by question type, where there are several."""
    columns = []
    if len(summary.types) > 1:
        columns += [_type_column(type_, summary) for type_ in summary.types]
        columns.append(Column("mean over types", lambda row: _percent(row.mean_over_types)))
    return columns


def comparison_columns(summary: Summary) -> list[Column]:
    """Each arm's answers against the baseline's, question by question."""
    return [
        Column("points", lambda row: _of_answers(row, lambda each: f"{each.points.mean:+.1f}")),
        Column(f"{summary.level:.0%} from", lambda row: _of_answers(row, lambda each: f"{each.points.low:+.1f}")),
        Column("to", lambda row: _of_answers(row, lambda each: f"{each.points.high:+.1f}")),
        Column("p (Holm)", lambda row: _of_answers(row, lambda each: _p(each.p_holm))),
        Column("lost", lambda row: _of_answers(row, lambda each: str(each.lost))),
        Column("gained", lambda row: _of_answers(row, lambda each: str(each.gained))),
        Column("p (McNemar)", lambda row: _of_answers(row, lambda each: _p(each.mcnemar))),
        Column("same answer", lambda row: _percent(_against(row, "agreement"))),
        Column(f"loses < {summary.margin:g}", lambda row: _of_answers(row, _verdict)),
    ]


def stage_columns() -> list[Column]:
    """Where the time goes."""
    return [
        Column("encode", lambda row: _cost_cell(row, lambda cost: cost.milliseconds.encode)),
        Column("compress", lambda row: _cost_cell(row, lambda cost: cost.milliseconds.compress)),
        Column("prefill", lambda row: _cost_cell(row, lambda cost: cost.milliseconds.prefill)),
        Column("decode", lambda row: _cost_cell(row, lambda cost: cost.milliseconds.decode)),
        Column("total", lambda row: _cost_cell(row, lambda cost: cost.milliseconds.total)),
        Column("median total", lambda row: _cost_cell(row, lambda cost: cost.milliseconds_median.total)),
        Column("prefill tokens", lambda row: _cost_cell(row, lambda cost: cost.prefill_tokens)),
        Column("prefill speed-up", lambda row: _format(_against(row, "prefill_speedup"), ".2f", "x")),
    ]


def _policies(summary: Summary) -> str:
    """Which arms keep position ids and which renumber them: it decides accuracy, so it is always shown."""
    arms: dict[str, list[str]] = {}
    for row in summary.arms:
        if row.positions:
            arms.setdefault(" then ".join(row.positions), []).append(row.arm)
    return "; ".join(f"{policy}: {', '.join(names)}" for policy, names in arms.items())


def captions(summary: Summary) -> Iterator[str]:
    """How the numbers were made."""
    yield f"[{summary.level:.0%}]: interval clustered by video (Wilson on an effective sample size, Student's t)."
    name = summary.baseline
    if any(row.arm == name for row in summary.arms):
        yield f"vs {name}: percentage points; x {name}, speed-up: of means; over the questions both arms have."
        yield (
            "points: interval and p by Student's t over videos; Holm's p hold for all arms together, McNemar's takes "
            f"questions for independent. loses < {summary.margin:g}: whether the arm is worse by less than that."
        )
    else:
        yield f"No arm is named {name}: there is nothing to compare with."
    if policies := _policies(summary):
        yield f"Position ids: {policies}."
    yield "FLOPs: 2 a multiply-add, of each query's own length, without padding."
    yield "ms a query: mean, decoded frames to answer; what a batch shares is divided evenly in the batch."
    if summary.speedup_ceiling is not None:
        yield f"Ceiling: were all that follows the encode free, the speed-up would be {summary.speedup_ceiling:.2f}x."
    if summary.padding_waste is not None:
        yield f"Padding: {summary.padding_waste:.1%} of the positions computed by the LLM; in the times, not the FLOPs."
    yield _memory(summary)
    if any(row.failed for row in summary.arms):
        yield "Failed samples count as wrong and are left out of tokens, FLOPs and times."


def _memory(summary: Summary) -> str:
    peaks = [(row.peak_memory_bytes / 2**30, row.arm) for row in summary.arms if row.peak_memory_bytes is not None]
    if not peaks:
        return "Peak memory: not measured on this device."
    (low, lowest), (high, highest) = min(peaks), max(peaks)
    return f"Peak memory: {low:.2f} GiB ({lowest}) to {high:.2f} GiB ({highest})."


def _arm_table(columns: Sequence[Column], summary: Summary, width: int) -> Table:
    """One row an arm; only the arms' names may wrap, for a number must never be cut."""
    table = _table("arm", [column.heading for column in columns], width)
    for row in summary.arms:
        table.add_row(Text(row.arm), *(Text(column.cell(row)) for column in columns))
    return table


def _matrix(columns: Sequence[Column], summary: Summary, width: int) -> list[Table]:
    """Columns by arms, or arms by columns where that needs fewer tables."""
    arms = [row.arm for row in summary.arms]
    headings = [column.heading for column in columns]
    cells = [[column.cell(row) for column in columns] for row in summary.arms]
    upright = _split_tables("arm", headings, arms, cells, width)
    transposed = _split_tables("", arms, headings, [list(line) for line in zip(*cells, strict=True)], width)
    return min(upright, transposed, key=len)


def _split_tables(
    corner: str, headings: Sequence[str], labels: Sequence[str], cells: Sequence[Sequence[str]], width: int
) -> list[Table]:
    """As many tables below each other as the headings need."""
    room = width - min(24, max(map(len, labels)))
    tables = []
    for part in _chunks([min(12, max(5, len(heading))) + _gap(width) for heading in headings], room):
        table = _table(corner, headings[part], width, wrap=12)
        for label, line in zip(labels, cells, strict=True):
            table.add_row(Text(label), *map(Text, line[part]))
        tables.append(table)
    return tables


def _chunks(widths: Sequence[int], room: int) -> Iterator[slice]:
    """Runs of columns that fit into the room, one column at least."""
    start, used = 0, 0
    for place, width in enumerate(widths):
        if place > start and used + width > room:
            yield slice(start, place)
            start, used = place, 0
        used += width
    yield slice(start, len(widths))


def _table(corner: str, headings: Sequence[str], width: int, wrap: int | None = None) -> Table:
    gap = _gap(width)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(corner, overflow="fold", max_width=None if wrap is None else 24)
    for heading in headings:
        table.add_column(Text(heading), justify="right", overflow="fold", no_wrap=wrap is None, max_width=wrap)
    return table


def _gap(width: int) -> int:
    """Blanks between columns, the box's own included."""
    return 2 if width >= WIDE else 1


def _type_column(type_: str, summary: Summary) -> Column:
    n = max((row.accuracy_by_type[type_].n for row in summary.arms if type_ in row.accuracy_by_type), default=0)

    def cell(row: ArmSummary) -> str:
        return _percent(row.accuracy_by_type[type_].mean if type_ in row.accuracy_by_type else None)

    return Column(f"{type_ or 'no type'} (n={n})", cell)


def _cost_cell(row: ArmSummary, value: Callable[[Cost], float]) -> str:
    return NOTHING if row.cost is None else _three_digits(value(row.cost))


def _against(row: ArmSummary, name: str) -> float | None:
    return None if row.against_baseline is None else getattr(row.against_baseline, name)


def _of_answers(row: ArmSummary, cell: Callable[[PairedAnswers], str]) -> str:
    answers = None if row.against_baseline is None else row.against_baseline.answers
    return NOTHING if answers is None else cell(answers)


def _points(row: ArmSummary) -> float | None:
    answers = None if row.against_baseline is None else row.against_baseline.answers
    return None if answers is None else answers.points.mean


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _verdict(answers: PairedAnswers) -> str:
    """A verdict, or how many questions it would take."""
    if answers.verdict != "cannot tell":
        return answers.verdict
    needed = "over a million" if answers.samples_needed is None else f"{answers.samples_needed:,}"
    return f"cannot tell; needs {needed}"


def _percent(share: float | None) -> str:
    return _format(None if share is None else 100 * share, ".1f")


def _format(value: float | None, spec: str, suffix: str = "") -> str:
    return NOTHING if value is None else f"{value:{spec}}{suffix}"


def _interval(interval: Interval | None, decimals: int) -> str:
    if interval is None:
        return NOTHING
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.mean:.1f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _three_digits(value: float) -> str:
    """Three significant digits, all digits before the point, at most three after it."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{min(3, max(0, digits))}f}"


def _flops_unit(summary: Summary) -> tuple[float, str]:
    most = max((row.cost.flops.total for row in summary.arms if row.cost), default=0.0)
    return next(((scale, unit) for scale, unit in UNITS if most >= scale), UNITS[-1])
