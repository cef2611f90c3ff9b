"""A run's tables on a terminal: one that fits its width, and all others by `--verbose`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenlab.metrics.record import Record
from tokenlab.metrics.summary import ArmSummary, Summary
from tokenlab.report.captions import all_captions, headline, short_captions
from tokenlab.report.columns import Column, by_budget, further_tables, main_columns

WIDE = 100  # columns of a terminal from which there is more room between those of a table
ANSWERED = 5  # questions whose answers are printed where nobody knows what is right
NAMES = 24  # columns of a terminal that arms' names may take


def terminal_report(summary: Summary, width: int, verbose: bool = False) -> Group:
    """The main table, or all tables of a run, with their captions, for a terminal of `width` columns."""
    parts: list[RenderableType] = [Text(headline(summary), style="bold")]
    if not summary.arms:
        return Group(*parts)
    parts.append(_main_table(summary, width))
    captions = all_captions(summary) if verbose else short_captions(summary)
    parts += [Padding(Text(line), (0, 0, 0, 2)) for line in captions]
    if not verbose:
        return Group(*parts)
    for table in further_tables(summary):
        parts += [Text(f"\n{table.title}", style="bold"), *_matrix(table.columns, table.rows, width)]
    return Group(*parts)


def first_answers(records: Sequence[Record]) -> Group:
    """What each arm answers to the first questions: all there is to see where nobody knows what is right."""
    by_question: dict[str, list[Record]] = {}
    for record in records:
        by_question.setdefault(record.uid, []).append(record)
    parts: list[RenderableType] = []
    for uid, answered in list(by_question.items())[:ANSWERED]:
        parts.append(Text(f"\n{uid}: {answered[0].question}", style="bold"))
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 2), pad_edge=False)
        for each in answered:
            table.add_row(Text(each.arm), Text(f"failed: {each.error}" if each.answer is None else each.answer))
        parts.append(table)
    if (more := len(by_question) - ANSWERED) > 0:
        parts.append(Text(f"\n{more} more questions: see records.jsonl"))
    return Group(*parts)


def _main_table(summary: Summary, width: int) -> Table:
    """One row an arm, by budget; only the arms' names may wrap, for a number must never be cut."""
    rows = by_budget(summary)
    columns = _that_fit(summary, rows, width)
    table = _table("arm", [column.heading for column in columns], width)
    for row, below in pairwise([*rows, None]):
        assert row is not None
        ends = below is not None and below.standing.budget != row.standing.budget
        style = "dim" if row.standing.dominated_by else ""
        table.add_row(Text(row.arm), *(Text(column.cell(row)) for column in columns), style=style, end_section=ends)
    return table


def _that_fit(summary: Summary, rows: Sequence[ArmSummary], width: int) -> list[Column]:
    """Intervals give way first, and then whole columns."""
    names = min(NAMES, max(len(row.arm) for row in rows))

    def needed(columns: Sequence[Column]) -> int:
        cells = [[*column.heading.split("\n"), *map(column.cell, rows)] for column in columns]
        return names + sum(max(map(len, each)) + _gap(width) for each in cells)

    columns: list[Column] = []
    for decimals in (1, 0, None):
        columns = main_columns(summary, decimals)
        if needed(columns) <= width:
            return columns
    while needed(columns) > width and any(column.rank for column in columns):
        columns.remove(max(columns, key=lambda column: column.rank))
    return columns


def _matrix(columns: Sequence[Column], rows: Sequence[ArmSummary], width: int) -> list[Table]:
    """Columns by arms, or arms by columns where that needs fewer tables."""
    arms = [row.arm for row in rows]
    headings = [column.heading for column in columns]
    cells = [[column.cell(row) for column in columns] for row in rows]
    upright = _split_tables("arm", headings, arms, cells, width)
    transposed = _split_tables("", arms, headings, [list(line) for line in zip(*cells, strict=True)], width)
    return min(upright, transposed, key=len)


def _split_tables(
    corner: str, headings: Sequence[str], labels: Sequence[str], cells: Sequence[Sequence[str]], width: int
) -> list[Table]:
    """As many tables below each other as the headings need."""
    room = width - min(NAMES, max(map(len, labels)))
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
    table.add_column(corner, overflow="fold", max_width=None if wrap is None else NAMES)
    for heading in headings:
        table.add_column(Text(heading), justify="right", overflow="fold", no_wrap=wrap is None, max_width=wrap)
    return table


def _gap(width: int) -> int:
    """Blanks between columns, the box's own included."""
    return 2 if width >= WIDE else 1
