"""Tables: every number whole, in any terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from tests.metrics.test_summary import record
from tokenlab.metrics.record import Flops, Milliseconds, Record
from tokenlab.metrics.summary import summarise
from tokenlab.report.tables import markdown_table
from tokenlab.report.terminal import first_answers, terminal_report

SEVEN = ["full", "random", "differential", "similarity", "topic", "text", "joint"]
THIRTY = ["full", *(f"arm{index}" for index in range(29))]
LONG = ["full", *(f"similarity_then_text_[red]_{index}_of_seven" for index in range(6))]


def records(arms, types=("color", "direction of motion"), questions=12, kept=None, right=None):
    """Costs of a large model on long videos: the widest numbers a table will meet.

    An arm keeps one in so many tokens as `kept` says, or else as it stands in the list; `right` says who is right.
    """
    for index in range(questions):
        for place, arm in enumerate(arms):
            share = (kept or {}).get(arm, 1 + place)
            yield Record(
                uid=f"q{index}",
                cluster=f"v{index // 3}",
                arm=arm,
                arm_hash=arm,
                type=types[index % len(types)],
                question="?",
                expected=["red"],
                status="failed" if (index, place) == (0, 1) else "ok",
                answer="red",
                correct=right(index, arm) if right else (index + place) % 5 > 0,
                visual_tokens_in=112_896,
                visual_tokens_out=112_896 // share,
                flops=Flops(123 * 10**12, 10**9, 0, 456 * 10**12 // share, 10**9),
                milliseconds=Milliseconds(
                    tower=1234.5, decide=float(place), prefill=56_789.0 / share, decode=10.0, steps=(5.0, 5.0)
                ),
                attention_kernels=["flash"],
                peak_memory_bytes=(17 + place) * 2**30,
            )


def shown(summary, width, verbose=False):
    console = Console(file=io.StringIO(), width=width)
    console.print(terminal_report(summary, width, verbose))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("arms", [SEVEN, THIRTY, LONG], ids=["seven", "thirty", "long names"])
@pytest.mark.parametrize("types", [("color", "direction of motion"), [f"a long type {i}" for i in range(12)]])
def test_report_fits_and_cuts_nothing(width, arms, types):
    summary = summarise(list(records(arms, types, questions=24)), padding_waste=0.031)
    main, text = shown(summary, width), shown(summary, width, verbose=True)
    assert main.splitlines()[:4] == text.splitlines()[:4]
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for row in summary.arms:
        assert f"{100 * row.cost.retention:.1f}" in main
        assert f"{100 * row.accuracy.mean:.1f}" in main
        assert f"{row.latency.mean.total:,.0f}" in text
        if row.against_baseline:
            assert f"{row.against_baseline.answers.points.mean:+.1f}" in main
            assert f"{row.against_baseline.answers.points.low:+.1f}" in text
            assert f"{row.against_baseline.speedup.total.low:.2f}" in text


def test_rows_stand_by_budget_the_best_first():
    kept = {"full": 1, "text": 4, "twin": 4, "random": 8}
    shuffled = ["random", "text", "twin", "full"]
    summary = summarise(list(records(shuffled, kept=kept, right=lambda _, arm: arm != "text")))
    arms = [line.split(" ")[0] for line in shown(summary, 200).splitlines()[4:]]
    assert arms[:6] == ["full", "", "twin", "text", "", "random"]  # budgets are set apart


def test_what_nobody_needs_is_marked():
    summary = summarise([*records(["full", "half"], right=lambda index, arm: arm == "half" or index % 2 == 0)])
    full, half = summary.arms
    assert (full.standing.dominated_by, half.standing.dominated_by) == ("half", None)
    assert (full.standing.best, half.standing.best) == (True, True)  # each of its own budget
    lines = shown(summary, 100).splitlines()
    assert [line.split()[1] for line in lines if line.startswith(("full ", "half "))] == ["<", "*"]


def test_numbers_are_those_of_the_summary():
    text = shown(summarise(list(records(SEVEN))), 140)
    row = next(line for line in text.splitlines() if line.startswith("topic"))
    cells = row.replace("[", " ").replace(", ", " ").replace("]", " ").split()
    assert cells[0] == "topic"
    assert cells[2:4] == ["22,579", "20.0"]
    assert cells[-7:] == ["214", "0.370", "12,606", "4.60x", "4.60", "4.60", "0"]
    assert "TFLOPs" in text


def test_captions_say_how_it_was_measured():
    summary = summarise(list(records(SEVEN)), padding_waste=0.031)
    text = " ".join(shown(summary, 120, verbose=True).split())
    assert text.startswith("12 questions, 4 videos, 7 arms")
    for words in ("over videos", "3.1%", "17.00 GiB (full) to 23.00 GiB (joint)", "Attention: flash.", "Ceiling"):
        assert words in text


def test_reasons_of_failures_are_counted():
    many = [replace(record, error=f"reason {record.uid}") for record in failed_records(range(8))]
    summary = summarise([*failed_records(range(20, 23)), *many])
    assert summary.failures[0] == ("the file is broken", 3)
    text = " ".join(shown(summary, 120).split())
    assert "3 x the file is broken" in text
    assert "4 x for 4 further reasons" in text


def failed_records(uids):
    return [Record(str(uid), "v", "full", "h", "", "?", ["red"], "failed", "the file is broken") for uid in uids]


def test_an_interrupted_run_says_so_first():
    some = list(records(SEVEN))[:-3]
    text = shown(summarise(some, complete=False, questions_planned=210), 120)
    assert text.startswith("PARTIAL RUN: 11 of 210 questions asked of every arm")
    assert "asked" in text.splitlines()[2]  # arms have been asked different numbers of questions, so they are shown


def test_what_is_not_known_is_a_dash():
    text = shown(summarise([Record("q", "v", "random", "h", "", "?", [])]), 100)
    row = next(line for line in text.splitlines() if line.startswith("random")).split()
    assert row == ["random", "0", "100.0", "-", "-", "-", "0", "-", "-", "-"]
    assert "No arm is named full" in text
    assert "No times" in text
    assert shown(summarise([]), 100) == "0 questions, 0 videos, 0 arms\n"


def test_type_table_turns_when_that_needs_fewer_tables():
    types = [f"type{index:02}" for index in range(12)]
    text = shown(summarise(list(records(["full", "half"], types))), 80, verbose=True)
    assert any(line.startswith("type00 (n=1)") for line in text.splitlines())


def test_markdown_has_one_row_an_arm_and_escapes_bars():
    lines = markdown_table(summarise(list(records(["full", "a|b"])))).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(
        "| arm | method | ratio | positions |  | visual tokens | kept % | accuracy % [95%] | vs full [95%] |"
    )
    assert lines[1].startswith("| --- | ---: |")
    assert lines[3].startswith("| a\\|b | - | - | - | * | 56,448 | 50.0 |")
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")


def test_where_nobody_knows_what_is_right_answers_are_shown():
    rows = [replace(record(uid, arm, f"answer {uid}"), expected=[]) for uid in range(7) for arm in ("full", "topic")]
    rows[1] = replace(rows[1], status="failed", answer=None, error="no frame")
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(first_answers(rows))
    text = console.export_text()
    assert "0: ?" in text
    assert "failed: no frame" in text
    assert "answer 4" in text
    assert "answer 5" not in text
    assert "2 more questions: see records.jsonl" in text
