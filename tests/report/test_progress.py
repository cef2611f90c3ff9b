"""The progress bar of a run, drawn on a terminal that is a string."""

import io

from rich.console import Console

from tests.metrics.test_summary import failed, record
from tokenlab.report import progress
from tokenlab.report.progress import AnswerBar
from tokenlab.report.run_folder import RunFolder


def drawn(records, planned, terminal=True):
    text = io.StringIO()
    bar, run = AnswerBar(Console(file=text, force_terminal=terminal, width=100)), RunFolder("unused")
    run.questions_planned, run.arms_planned = planned, 2
    bar.begin(run)
    for each in records:
        run._note(each)
        if run.on_record is not None:
            run.on_record(each)
    bar.end()
    return text.getvalue()


def test_it_counts_answers_and_says_who_answers_how_well():
    text = drawn([record(0, "full"), record(1, "full", "blue"), record(0, "topic")], planned=5)
    for shown in ("3/10", "topic", "100.0% right", "left"):
        assert shown in text
    assert "50.0% right" in drawn([record(0, "full"), record(1, "full", "blue")], planned=5)


def test_an_arm_that_is_given_up_has_nothing_left_to_answer():
    lost = [failed(uid, "topic") for uid in range(20)]
    assert "20/50" in drawn(lost, planned=30)  # 20 of its own, and 30 of the other arm


def test_a_log_gets_a_line_a_minute(monkeypatch):
    rows = [record(uid, "full") for uid in range(5)]
    assert drawn(rows, planned=5, terminal=False) == ""
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    lines = drawn(rows, planned=5, terminal=False).splitlines()
    assert lines == ["3 of 10 answers; full: 100.0% right"]
