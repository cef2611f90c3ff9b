"""Somebody's run, answered anew: what is the same, and what was tampered with."""

import json
from pathlib import Path

import pytest
import yaml

from tests.test_evaluation import write_video
from tokenlab.cli import main


@pytest.fixture(scope="module")
def run(checkpoints, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    rows = []
    for video in range(3):
        write_video(folder / f"{video}.mp4", 4, seed=video)
        rows += [
            {"video": f"{video}.mp4", "question": f"what {k} ?", "answer": "red", "uid": f"{video}-{k}"} for k in "ab"
        ]
    rows.append({"video": "missing.mp4", "question": "what ?", "answer": "red", "uid": "missing"})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": {
            "mllm": {"checkpoint": str(checkpoints["llava"]), "max_new_tokens": 4},
            "pipelines": {"full": [], "random": [{"random": {"retention_ratio": 0.4}}]},
            "timed_questions": 0,
        },
        "data": {"jsonl": {"file": str(folder / "questions.jsonl"), "root": str(folder), "num_workers": 0}},
        "trainer": {"accelerator": "cpu", "logger": False, "enable_progress_bar": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert main(["test", "--config", str(folder / "config.yaml"), f"--run.folder={folder / 'run'}"]) == 3
    return folder / "run"


def test_what_was_answered_is_answered_again(run, capsys):
    assert main(["verify", str(run), "--samples", "4"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("4 of 7 questions, answered anew")
    assert [line.split() for line in out.splitlines() if line.startswith(("full", "random"))] == [
        ["full", *"4444"],
        ["random", *"4444"],
    ]
    assert "Made with something else" not in out


@pytest.mark.parametrize(
    ("field", "value", "column"), [("answer", "tampered", 0), ("prefill_tokens", 1, 1), ("flops", None, 2)]
)
def test_what_was_tampered_with_is_found(run, tmp_path, capsys, field, value, column):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.yaml", "environment.json"):
        (copy / name).write_bytes((run / name).read_bytes())
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    record = next(each for each in records if each["arm"] == "random" and each["status"] == "ok")
    record[field] = record["flops"] | {"prefill": 1} if field == "flops" else value
    (copy / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    assert main(["verify", str(copy), "--samples", "99"]) == 1
    out = capsys.readouterr().out
    expected = ["7"] * 3
    expected[column] = "6"
    assert ["random", "7", *expected] in [line.split() for line in out.splitlines()]
    assert f"random, {record['uid']}: " in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "holds no records.jsonl"),
        ([], "RUN"),
        (["{run}/records.jsonl"], "holds no config.yaml"),
        (["{run}", "--samples", "0"], "--samples: must be a whole number of at least 1"),
    ],
)
def test_mistakes_are_one_line(run, argv, message, capsys):
    assert main(["verify", *(text.format(run=run) for text in argv)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
