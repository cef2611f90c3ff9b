"""Tables: every number whole, in any terminal."""

import io

import pytest
from rich.console import Console

from tokenlab.metrics.record import Flops, Milliseconds, Record
from tokenlab.metrics.summary import summarise
from tokenlab.report.tables import markdown_table
from tokenlab.report.terminal import terminal_report

SEVEN = ["full", "random", "differential", "similarity", "topic", "text", "joint"]
THIRTY = ["full", *(f"arm{index}" for index in range(29))]
LONG = ["full", *(f"similarity_then_text_[red]_{index}_of_seven" for index in range(6))]


def records(arms, types=("color", "direction of motion"), questions=12):
    """Costs of a large model on long videos: the widest numbers a table will meet."""
    for index in range(questions):
        for place, arm in enumerate(arms):
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
                correct=(index + place) % 5 > 0,
                visual_tokens_in=112_896,
                visual_tokens_out=112_896 // (1 + place),
                flops=Flops(123 * 10**12, 10**9, 0, 456 * 10**12 // (1 + place), 10**9),
                milliseconds=Milliseconds(1234.5, float(place), 56_789.0 / (1 + place), 10.0),
                peak_memory_bytes=(17 + place) * 2**30,
            )


def shown(summary, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(terminal_report(summary, width))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("arms", [SEVEN, THIRTY, LONG], ids=["seven", "thirty", "long names"])
@pytest.mark.parametrize("types", [("color", "direction of motion"), [f"a long type {i}" for i in range(12)]])
def test_report_fits_and_cuts_nothing(width, arms, types):
    summary = summarise(list(records(arms, types, questions=24)), padding_waste=0.031)
    text = shown(summary, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for row in summary.arms:
        assert f"{row.cost.visual_tokens_out:,.0f}" in text
        assert f"{row.cost.milliseconds.total:,.0f}" in text
        assert f"{100 * row.accuracy.mean:.1f} [" in text
        if row.against_baseline:
            assert f"{row.against_baseline.flops_ratio:.3f}" in text
            assert f"{row.against_baseline.answers.points.low:+.1f}" in text


def test_rows_stand_in_the_order_of_the_arms():
    lines = shown(summarise(list(records(SEVEN))), 100).splitlines()
    main = lines[: lines.index("Answers, %")]
    assert [line.split()[0] for line in main if line.split() and line.split()[0] in SEVEN] == SEVEN


def test_numbers_are_those_of_the_summary():
    text = shown(summarise(list(records(SEVEN))), 120)
    row = next(line for line in text.splitlines() if line.startswith("topic"))
    cells = row.replace("[", " ").replace(", ", " ").replace("]", " ").split()
    assert cells[:3] == ["topic", "22,579", "20.0"]
    assert cells[7:] == ["214", "0.370", "12,606", "4.60x", "0"]
    assert "TFLOPs" in text


def test_captions_say_how_it_was_measured():
    text = shown(summarise(list(records(SEVEN)), padding_waste=0.031), 120)
    assert text.startswith("12 questions, 4 videos, 7 arms")
    for words in ("clustered by video", "divided evenly", "3.1%", "17.00 GiB (full) to 23.00 GiB (joint)", "Failed"):
        assert words in text


def test_an_interrupted_run_says_so_first():
    some = list(records(SEVEN))[:-3]
    text = shown(summarise(some, complete=False, questions_planned=210), 120)
    assert text.startswith("PARTIAL RUN: 11 of 210 questions asked of every arm")
    assert "asked" in text.splitlines()[2]  # arms have been asked different numbers of questions, so they are shown


def test_what_is_not_known_is_a_dash():
    text = shown(summarise([Record("q", "v", "random", "h", "", "?", [])]), 100)
    row = next(line for line in text.splitlines() if line.startswith("random")).split()
    assert row == ["random", "0", "100.0", "-", "-", "0", "-", "0", "-"]
    assert "No arm is named full" in text
    assert "not measured on this device" in text
    assert shown(summarise([]), 100) == "0 questions, 0 videos, 0 arms\n"


def test_type_table_turns_when_that_needs_fewer_tables():
    types = [f"type{index:02}" for index in range(12)]
    text = shown(summarise(list(records(["full", "half"], types))), 80)
    assert any(line.startswith("type00 (n=1)") for line in text.splitlines())


def test_markdown_has_one_row_an_arm_and_escapes_bars():
    lines = markdown_table(summarise(list(records(["full", "a|b"])))).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(
        "| arm | positions | visual tokens | kept % | accuracy % [95%] | vs full | TFLOPs a query |"
    )
    assert lines[1].startswith("| --- | ---: |")
    assert lines[3].startswith("| a\\|b | - | 56,448 | 50.0 |")
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
