"""A run's rows for papers and programs: Markdown, LaTeX, CSV and JSON; every number comes from the summary."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tokenlab.metrics.summary import ArmSummary, Summary
from tokenlab.report.columns import NOTHING, Column, by_budget, main_columns

LATEX = {"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}


def markdown_table(summary: Summary) -> str:
    """The main table as GitHub Markdown."""
    columns = _with_arms(summary, lambda text: text.replace("|", "\\|"))
    lines = [
        [column.title for column in columns],
        ["---", *["---:"] * (len(columns) - 1)],
        *([column.cell(row) for column in columns] for row in by_budget(summary)),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex_table(summary: Summary) -> str:
    """The main table for LaTeX's booktabs."""
    columns = _with_arms(summary, escaped)
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
        r"\toprule",
        " & ".join(escaped(column.title) for column in columns) + r" \\",
        r"\midrule",
        *(
            " & ".join([columns[0].cell(row), *(escaped(column.cell(row)) for column in columns[1:])]) + r" \\"
            for row in by_budget(summary)
        ),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def csv_table(summary: Summary) -> str:
    """Every number of every arm, a row an arm, in full precision."""
    rows = [flat(row) for row in summary.arms]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def flat(row: ArmSummary) -> dict[str, Any]:
    """One arm's numbers under names of one level, such as `cost.flops.total`."""
    found: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                add(f"{name}.{key}" if name else key, each)
        else:
            found[name] = " ".join(map(str, value)) if isinstance(value, list | tuple) else value

    add("", {key: value for key, value in asdict(row).items() if key != "pipeline"})
    return {"arm": row.arm, "method": row.method, "ratio": row.ratio, "parameters": json.dumps(row.pipeline)} | found


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def _with_arms(summary: Summary, escape: Callable[[str], str]) -> list[Column]:
    return [
        Column("arm", lambda row: escape(row.arm)),
        Column("method", lambda row: escape(row.method) or NOTHING),
        Column("ratio", lambda row: row.ratio or NOTHING),
        Column("positions", lambda row: ", ".join(row.positions) or NOTHING),
        *main_columns(summary),
    ]
