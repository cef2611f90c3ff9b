"""`tokenlab report`: a run's numbers again, from its records alone; several runs side by side."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tokenlab.cli.commands.options import Parser
from tokenlab.errors import UserError
from tokenlab.metrics.comparison import PairedAnswers
from tokenlab.metrics.record import Record
from tokenlab.metrics.summary import BASELINE, MARGIN, ArmSummary, Summary, read_records, summarise
from tokenlab.report.console import Terminal
from tokenlab.report.files import RECORDS
from tokenlab.report.tables import csv_table, latex_table, markdown_table
from tokenlab.report.terminal import terminal_report

HELP = f"""usage: tokenlab report RUN [RUN ...] [--baseline ARM] [--margin POINTS] [--within POINTS] [--format FORMAT]
                       [--output FILE] [--verbose]

Recomputes a run's numbers from its records, without a model; of several runs it compares all arms.

  RUN                a run folder, or a {RECORDS}
  --baseline ARM     the arm that the others are compared with (default: {BASELINE})
  --margin POINTS    how many points an arm may lose and still pass for the baseline (default: {MARGIN})
  --within POINTS    recommend the cheapest arm that certainly loses less than that
  --format FORMAT    table, md, latex, csv, json or html (default: table); html is one page, written to --output
  --output FILE      where html is written (default: report.html in the run's folder, or here for several runs)
  --verbose          all tables: by question type, comparisons, time by stage"""

FORMATS: dict[str, Callable[[Summary], str]] = {
    "md": markdown_table,
    "latex": latex_table,
    "csv": csv_table,
    "json": Summary.to_json,
}


def show(argv: Sequence[str]) -> int:
    """Prints the report of one run or several."""
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    options = _options(argv)
    records = merged(options.runs)
    summary = summarise(records, baseline=options.baseline, margin=options.within or options.margin)
    if all(row.arm != options.baseline for row in summary.arms) and options.baseline != BASELINE:
        arms = ", ".join(row.arm for row in summary.arms)
        raise UserError(f"--baseline: no arm is called {options.baseline!r}; there are {arms}")
    if options.format == "table":
        terminal = Terminal()
        terminal.print(terminal_report(summary, terminal.width, options.verbose))
    elif options.format == "html":
        print(_html(options, summary, records))
    else:
        print(FORMATS[options.format](summary), end="")
    if options.within is not None:
        for line in recommendation(summary):
            Terminal(stderr=options.format != "table").print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _html(options: argparse.Namespace, summary: Summary, records: Sequence[Record]) -> Path:
    """Writes the page; returns where."""
    from tokenlab.report.html import PAGE, write_page  # plots are slow to import

    folders = [path if path.is_dir() else path.parent for path in map(Path, options.runs)]
    target = Path(options.output) if options.output else (folders[0] / PAGE if len(folders) == 1 else Path(PAGE))
    try:
        write_page(folders, target, summary, records)
    except OSError as error:
        raise UserError(f"--output: {target} cannot be written ({error.strerror or error})") from error
    return target


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(add_help=False)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--baseline", default=BASELINE)
    parser.add_argument("--margin", type=points, default=MARGIN)
    parser.add_argument("--within", type=points)
    parser.add_argument("--output")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--format", choices=["table", "html", *FORMATS], default="table")
    options = parser.parse_args(list(argv))
    if not options.runs:
        raise UserError("report: name a run: tokenlab report RUN [RUN ...]")
    return options


def points(text: str) -> float:
    """The type of an option in percentage points."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most 100, got {text}")
    return value


def merged(runs: Sequence[str]) -> list[Record]:
    """The records of all runs; arms of one name in several runs are told apart by the run's.

    Raises:
        UserError: If a run has no records, or arms were asked different questions.
    """
    found = {Path(run): read_run(Path(run)) for run in runs}
    _check_same_questions(found)
    names = [record.arm for records in found.values() for record in {each.arm: each for each in records}.values()]
    twice = {name for name in names if names.count(name) > 1}
    same = twice & {BASELINE} if _agree_on_baseline(list(found.values())) else set()
    records = []
    for number, (run, own) in enumerate(found.items()):
        for record in own:
            if record.arm in same and number:
                continue
            is_unclear = record.arm in twice - same
            records.append(replace(record, arm=f"{run.name}/{record.arm}") if is_unclear else record)
    return records


def _agree_on_baseline(runs: Sequence[Sequence[Record]]) -> bool:
    """Whether the untouched model answered the same questions with the same words, so that one of them will do."""
    answers = [{each.uid: (each.arm_hash, each.answer) for each in run if each.arm == BASELINE} for run in runs]
    return all(each == answers[0] for each in answers)


def read_run(path: Path) -> list[Record]:
    """The records of a run, by its folder or their file."""
    file = path / RECORDS if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"report: {path} holds no {RECORDS}: is it a run folder?")
    try:
        records = read_records(file)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"report: {file} holds a line that is no record of this version ({error})") from error
    if not records:
        raise UserError(f"report: {file} holds no record: the run broke off before its first answer")
    return records


def _check_same_questions(runs: Mapping[Path, Sequence[Record]]) -> None:
    """One run may have fewer of the questions than another, having broken off; but none of its own."""
    questions = {run: {record.uid: record.question for record in records} for run, records in runs.items()}
    (first, most), *others = sorted(questions.items(), key=lambda item: -len(item[1]))
    for run, own in others:
        others_own = [uid for uid, question in own.items() if most.get(uid) != question]
        if others_own:
            raise UserError(
                f"report: {len(others_own)} of {len(own)} questions of {run} are none of {first}'s, such as "
                f"{others_own[0]!r}: arms are compared on the same questions"
            )


def recommendation(summary: Summary) -> list[str]:
    """The cheapest arm that certainly loses less than the margin, and how to use it."""
    rows = [row for row in summary.arms if row.against_baseline and row.against_baseline.answers and row.cost]
    good = [row for row in rows if _answers(row).verdict == "holds"]
    if not good:
        undecided = [row.arm for row in rows if _answers(row).verdict == "cannot tell"]
        more = f"; {', '.join(undecided)} may: ask more questions" if undecided else ""
        return [f"No arm certainly loses less than {summary.margin:g} points against {summary.baseline}{more}."]
    best = min(good, key=lambda row: row.cost.flops.total if row.cost else 0.0)
    low = _answers(best).points.low
    return [
        f"Cheapest arm within {summary.margin:g} points of {summary.baseline}: {best.arm} (at worst {low:+.1f}).",
        f"  YAML:   pipelines: {{{best.arm}: ...}}, as in the run's config.yaml",
        f'  Python: Pipeline.from_config("RUN/config.yaml", arm="{best.arm}")',
    ]


def _answers(row: ArmSummary) -> PairedAnswers:
    assert row.against_baseline is not None
    assert row.against_baseline.answers is not None
    return row.against_baseline.answers
