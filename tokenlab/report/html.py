"""`report.html`: a run on one page that needs nothing else: tables, plots, a heat map and the gallery."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from tokenlab.metrics.record import Record
from tokenlab.metrics.summary import ArmSummary, Summary
from tokenlab.report.captions import all_captions, headline
from tokenlab.report.columns import Column, by_budget, further_tables, main_columns, value_at
from tokenlab.report.environment import Environment
from tokenlab.report.files import ENVIRONMENT, write_whole
from tokenlab.report.gallery import FOLDER, GallerySample, read_gallery
from tokenlab.report.overlay import LEGEND
from tokenlab.report.plots import answer_length_plot, as_svg, pareto_plots, stage_bars

PAGE, TEMPLATE = "report.html", "page.html.jinja"
DEEPEST = 50.0
"""Points of difference that are drawn in full colour."""


@dataclass(frozen=True)
class Cell:
    """A number of the summary as the page shows it.

    Attributes:
        text: For readers.
        path: Where in `summary.json` it lies, as a JSON pointer; empty for what is no number.
        value: What lies there.
    """

    text: str
    path: str
    value: Any


def html_page(
    summary: Summary, records: Sequence[Record], galleries: dict[Path, list[GallerySample]], title: str, made_with: str
) -> str:
    """The page of one run or several.

    Args:
        summary: All numbers.
        records: What they come from: the gallery quotes questions and answers.
        galleries: By run folder, its gallery.
        title: Of the page.
        made_with: Versions and device, on one line.
    """
    page = jinja2.Environment(
        loader=jinja2.PackageLoader("tokenlab.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    ).get_template(TEMPLATE)
    rows = by_budget(summary)
    place = {row.arm: number for number, row in enumerate(summary.arms)}

    def cells(columns: Sequence[Column], row: ArmSummary) -> list[Cell]:
        return [_cell(column, row, place[row.arm]) for column in columns]

    return page.render(
        title=title,
        headline=headline(summary),
        environment=made_with,
        main=main_columns(summary),
        rows=rows,
        cells=cells,
        captions=list(all_captions(summary)),
        further=further_tables(summary),
        figures=list(_figures(summary)),
        heat=_heat(summary, rows, place),
        baseline=summary.baseline,
        level=f"{summary.level:.0%}",
        gallery=[_quoted(folder, sample, records) for folder, samples in galleries.items() for sample in samples],
        legend=LEGEND,
    )


def write_page(folders: Sequence[Path], target: Path, summary: Summary, records: Sequence[Record]) -> None:
    """Writes the page of one run or several to a file, whole or not at all."""
    galleries = {folder: read_gallery(folder) for folder in folders}
    made_with = [folder / ENVIRONMENT for folder in folders]
    known = [Environment.from_json(path.read_text(encoding="utf-8")).line for path in made_with if path.exists()]
    title = ", ".join(folder.resolve().name for folder in folders)
    write_whole(target, html_page(summary, records, galleries, title, "; ".join(dict.fromkeys(known))))


def _cell(column: Column, row: ArmSummary, place: int) -> Cell:
    if not column.path:
        return Cell(column.cell(row), "", None)
    return Cell(column.cell(row), f"/arms/{place}/{_pointer(column.path)}", value_at(row, column.path))


def _pointer(path: Sequence[str]) -> str:
    """A JSON pointer (RFC 6901) without its first slash."""
    return "/".join(name.replace("~", "~0").replace("/", "~1") for name in path)


def _figures(summary: Summary) -> Iterator[dict[str, str]]:
    for title, caption, figure in (
        (
            "Accuracy against cost",
            f"Bars: {summary.level:.0%} intervals. The line joins arms that no other beats at their cost.",
            pareto_plots(summary),
        ),
        (
            "Where the time goes",
            "Dashed: what of the baseline's time lies before any method behind the tower; none of those gets below it.",
            stage_bars(summary),
        ),
        (
            "Speed-up by length of the answer",
            "From each arm's mean times; dashed, what a free LLM would give.",
            answer_length_plot(summary),
        ),
    ):
        if figure is not None:
            yield {"title": title, "caption": caption, "svg": as_svg(figure)}


def _heat(summary: Summary, rows: Sequence[ArmSummary], place: dict[str, int]) -> dict[str, Any]:
    """Differences by question type; grey where they may be chance."""
    compared = [row for row in rows if row.against_baseline and row.against_baseline.by_type]
    types = summary.types if compared and len(summary.types) > 1 else ()
    shown = [{"arm": row.arm, "cells": [_heat_cell(row, type_, place[row.arm]) for type_ in types]} for row in compared]
    return {"types": [type_ or "no type" for type_ in types], "rows": shown}


def _heat_cell(row: ArmSummary, type_: str, place: int) -> dict[str, Any]:
    path = ("against_baseline", "by_type", type_, "mean")
    points = row.against_baseline.by_type.get(type_) if row.against_baseline else None
    cell = {"path": f"/arms/{place}/{_pointer(path)}", "kind": "grey", "depth": 0.0, "value": None, "text": "-"}
    if points is None:
        return {**cell, "title": "no such questions"}
    if points.low > 0 or points.high < 0:
        cell["kind"] = "good" if points.mean > 0 else "bad"
        cell["depth"] = round(0.15 + 0.65 * min(1.0, abs(points.mean) / DEEPEST), 2)
    title = f"[{points.low:+.1f}, {points.high:+.1f}], {points.n} questions"
    return {**cell, "value": points.mean, "text": f"{points.mean:+.1f}", "title": title}


def _quoted(folder: Path, sample: GallerySample, records: Sequence[Record]) -> dict[str, Any]:
    """A sample of the gallery with the question and what each arm answers."""
    own = [record for record in records if record.uid == sample.uid]
    answers = [
        {
            "arm": record.arm,
            "text": record.answer if record.status == "ok" else f"failed: {record.error}",
            "right": record.correct,
            "pictures": [_embedded(folder / FOLDER / name) for name in sample.arms.get(record.arm, ())],
        }
        for record in own
    ]
    return {
        "question": own[0].question if own else sample.uid,
        "expected": ", ".join(own[0].expected) if own else "",
        "type": own[0].type if own else "",
        "plain": [_embedded(folder / FOLDER / name) for name in sample.plain],
        "answers": answers,
    }


def _embedded(picture: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture.read_bytes()).decode()}"
