"""`tokenlab report`: the same numbers as the run's, from its records alone; several runs; what cannot be compared."""

import csv
import io
import json
from dataclasses import replace

import pytest

from tests.metrics.test_summary import record
from tokenlab.cli import main
from tokenlab.metrics.summary import summarise


def answers(arm, wrong=(), questions=60, **fields):
    return [record(uid, arm, "blue" if uid in wrong else "red", **fields) for uid in range(questions)]


def save(folder, *arms):
    folder.mkdir()
    lines = [one.to_json() + "\n" for arm in arms for one in arm]
    (folder / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    return str(folder)


@pytest.fixture
def run(tmp_path):
    return save(tmp_path / "one", answers("full", {3}), answers("half", {3, 4}), answers("worse", set(range(30))))


def report(capsys, *argv):
    assert main(["report", *argv]) == 0
    return capsys.readouterr().out


def test_json_is_the_runs_own_summary(run, capsys):
    records = [*answers("full", {3}), *answers("half", {3, 4}), *answers("worse", set(range(30)))]
    assert report(capsys, run, "--format", "json") == summarise(records).to_json()
    assert report(capsys, f"{run}/records.jsonl", "--format", "json") == summarise(records).to_json()


def test_an_edited_record_moves_every_format(run, tmp_path, capsys):
    before = {form: report(capsys, run, "--format", form) for form in ("table", "md", "latex", "csv", "json")}
    path = tmp_path / "one" / "records.jsonl"
    lines = path.read_text().splitlines()
    edited = json.loads(lines[70]) | {"correct": False, "answer": "blue"}
    path.write_text("\n".join([*lines[:70], json.dumps(edited), *lines[71:]]) + "\n")
    for form, text in before.items():
        assert report(capsys, run, "--format", form) != text, form


def test_csv_has_every_number(run, capsys):
    rows = list(csv.DictReader(io.StringIO(report(capsys, run, "--format", "csv"))))
    half = summarise([*answers("full", {3}), *answers("half", {3, 4})]).arms[1]
    assert [row["arm"] for row in rows] == ["full", "half", "worse"]
    assert float(rows[1]["accuracy.mean"]) == half.accuracy.mean
    assert float(rows[1]["against_baseline.answers.points.low"]) == half.against_baseline.answers.points.low
    assert float(rows[1]["cost.flops.total"]) == half.cost.flops.total
    assert rows[0]["against_baseline"] == ""


def test_latex_is_escaped_and_whole(tmp_path, capsys):
    text = report(capsys, save(tmp_path / "run", answers("full"), answers("a_b & 50%")), "--format", "latex")
    assert r"a\_b \& 50\%" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1
    assert (text.count(r"\begin{tabular}"), text.count(r"\end{tabular}")) == (1, 1)


def test_the_cheapest_arm_within_a_margin(run, capsys):
    text = report(capsys, run, "--within", "10")
    assert "Cheapest arm within 10 points of full: half" in text
    assert 'Pipeline.from_config("RUN/config.yaml", arm="half")' in text
    assert "No arm certainly loses less than 1 points against full; half may: ask more" in report(
        capsys, run, "--within", "1"
    )


def test_runs_are_merged(run, tmp_path, capsys):
    """The untouched model once, where it said the same; other arms of one name under their runs'."""
    other = save(tmp_path / "two", answers("full", {3}), answers("half", {5}), answers("third"))
    summary = json.loads(report(capsys, run, other, "--format", "json"))
    assert [row["arm"] for row in summary["arms"]] == ["full", "one/half", "worse", "two/half", "third"]
    changed = save(tmp_path / "three", answers("full", {9}), answers("fourth"))
    summary = json.loads(report(capsys, run, changed, "--baseline", "one/full", "--format", "json"))
    assert [row["arm"] for row in summary["arms"]] == ["one/full", "half", "worse", "three/full", "fourth"]


def test_an_interrupted_run_is_compared_on_what_it_has(run, tmp_path, capsys):
    part = save(tmp_path / "part", answers("fourth", questions=20))
    assert "fourth" in report(capsys, run, part)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "holds no record: the run broke off"),
        (["{}"], "no record of this version"),
        (["not json"], "no record of this version"),
    ],
)
def test_records_that_are_none(tmp_path, capsys, lines, said):
    (tmp_path / "records.jsonl").write_text("".join(line + "\n" for line in lines))
    assert main(["report", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_mistakes_are_one_line(run, tmp_path, capsys):
    other = save(tmp_path / "other", [replace(one, uid=f"x{one.uid}") for one in answers("third")])
    asked = save(tmp_path / "asked", [replace(one, question="another ?") for one in answers("third")])
    for argv, said in (
        ([], "name a run"),
        ([str(tmp_path / "nowhere")], "holds no records.jsonl"),
        ([run, other], "60 of 60 questions of"),
        ([run, asked], "are none of"),
        ([run, "--baseline", "fool"], "no arm is called 'fool'; there are full, half, worse"),
        ([run, "--within", "0"], "--within: must be a number above 0"),
        ([run, "--format", "pdf"], "--format"),
    ):
        assert main(["report", *argv]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_help_says_what_there_is(capsys):
    assert "--within" in report(capsys, "--help")
