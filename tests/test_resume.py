"""Runs that break off and go on: the same records and metrics, and nothing answered twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import tokenlab
from tests.test_evaluation import write_video
from tokenlab.cli import main
from tokenlab.metrics.summary import read_records
from tokenlab.models.clock import running
from tokenlab.models.mllm import LoadedModel

CHECKOUT = str(Path(tokenlab.__file__).parents[1])
ARMS = {"full": [], "random": [{"random": {"retention_ratio": 0.4}}], "fastv": [{"fastv": {"retention_ratio": 0.4}}]}
VIDEOS, QUESTIONS = 4, 2
TOTAL = len(ARMS) * VIDEOS * QUESTIONS
KILLS = int(os.environ.get("TOKENLAB_KILLS", "2"))


@pytest.fixture(scope="module")
def config(tmp_path_factory, checkpoints) -> Path:
    """A run of three arms on four videos, the last of which cannot be read."""
    folder = tmp_path_factory.mktemp("resume")
    rows = []
    for video in range(VIDEOS):
        if video < VIDEOS - 1:
            write_video(folder / f"{video}.mp4", 5, seed=video)
        rows += [
            {"video": f"{video}.mp4", "question": "what colour is it ?", "answer": "red", "uid": f"{video}-{question}"}
            for question in range(QUESTIONS)
        ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mllm = {"checkpoint": str(checkpoints["llava"]), "max_new_tokens": 4}
    settings = {
        "model": {"mllm": mllm, "pipelines": ARMS, "timed_questions": 2, "scored_questions": 3},
        "data": {"jsonl": {"file": str(folder / "questions.jsonl"), "root": str(folder), "num_workers": 0}},
        "trainer": {"accelerator": "cpu", "logger": False, "enable_progress_bar": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder / "config.yaml"


def arguments(config: Path, folder: Path, *more: str) -> list[str]:
    return ["validate", "--config", str(config), f"--run.folder={folder}", "--run.resume=true", *more]


def untimed(folder: Path) -> dict:
    """A run's records without what the clock says, by arm and question."""
    records = read_records(folder / "records.jsonl")
    assert len({(record.arm, record.uid) for record in records}) == len(records) == TOTAL
    return {(each.arm, each.uid): replace(each, milliseconds=None) for each in records}


def metrics(folder: Path) -> list[dict]:
    """What the summary says of answers, tokens and FLOPs."""
    rows = json.loads((folder / "summary.json").read_text())["arms"]
    for row in rows:
        row["latency"] = None
        if row["against_baseline"]:
            row["against_baseline"]["speedup"] = None
    return sorted(rows, key=lambda row: row["arm"])


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    """The run, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(arguments(config, folder)) == 3  # there is a video that cannot be read
    return folder


def broken_off(whole: Path, folder: Path, records: int) -> Path:
    """The run as it is left when it is killed while a record is written."""
    folder.mkdir()
    for name in ("config.yaml", "environment.json"):
        (folder / name).write_bytes((whole / name).read_bytes())
    lines = (whole / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records.jsonl").write_bytes(b"".join([*lines[:records], lines[records][:40]]))
    return folder


@pytest.mark.parametrize("records", [1, 4, TOTAL - 1])
def test_a_run_goes_on_behind_its_last_whole_record(config, whole, tmp_path, monkeypatch, records):
    folder, asked, timed = broken_off(whole, tmp_path / "run", records), [], set()
    generate = LoadedModel.generate

    def counting(self, requests):
        uids = [request.sample.uid for request in requests]
        if running():
            timed.update((requests[0].pipeline, uid) for uid in uids)
        else:
            asked.extend((requests[0].pipeline, uid) for uid in uids)
        return generate(self, requests)

    monkeypatch.setattr(LoadedModel, "generate", counting)
    kept = [line for line in (folder / "records.jsonl").read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert main(arguments(config, folder)) == 3
    assert (folder / "records.jsonl").read_bytes().startswith(b"".join(kept))
    assert untimed(folder) == untimed(whole)
    assert metrics(folder) == metrics(whole)
    answered = [each for each in read_records(folder / "records.jsonl")[records:] if each.status == "ok"]
    assert sorted(uid for _, uid in asked) == sorted(each.uid for each in answered)
    assert timed <= set(asked)  # no recorded sample is answered again, not even for its times
    assert bool(timed) == (records < TOTAL - 1)


@pytest.mark.slow
def test_a_share_of_the_data_is_taken_once(config, tmp_path):
    """A limit that is a share is one of the whole data, also where half of that is answered, or verified."""
    half, folder = arguments(config, tmp_path / "half", "--trainer.limit_val_batches=0.5"), tmp_path / "run"
    assert main(half) == 0
    records = read_records(tmp_path / "half" / "records.jsonl")
    assert len(records) == TOTAL // 2
    broken_off(tmp_path / "half", folder, TOTAL // 4)
    assert main(arguments(config, folder, "--trainer.limit_val_batches=0.5")) == 0
    assert {(each.arm, each.uid) for each in read_records(folder / "records.jsonl")} == {
        (each.arm, each.uid) for each in records
    }
    assert main(["verify", str(folder)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_run_ends_as_if_nothing_had_been(config, whole, tmp_path, seed):
    """SIGKILL at a random record; then the same command again."""
    folder, kill_at = tmp_path / "run", random.Random(seed).randrange(TOTAL - 1)
    command = [sys.executable, "-m", "tokenlab", *arguments(config, folder)]
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, "PYTHONPATH": CHECKOUT}}
    run, records = subprocess.Popen(command, **settings), folder / "records.jsonl"
    while run.poll() is None and not (records.exists() and records.read_bytes().count(b"\n") > kill_at):
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    again = subprocess.run(command, check=False, **settings)
    assert again.returncode == 3, again.stderr
    assert untimed(folder) == untimed(whole)
    assert metrics(folder) == metrics(whole)


def test_a_run_that_came_to_its_end_asks_nothing_more(config, whole, monkeypatch):
    before, summary = (whole / "records.jsonl").read_bytes(), metrics(whole)
    monkeypatch.setattr(LoadedModel, "answer", None)
    assert main(arguments(config, whole)) == 3
    assert (whole / "records.jsonl").read_bytes() == before
    assert metrics(whole) == summary
    assert json.loads((whole / "summary.json").read_text())["complete"]


def test_without_resume_the_folder_is_taken(config, whole, capsys):
    assert main(["validate", "--config", str(config), f"--run.folder={whole}"]) == 2
    assert "or go on with that run by --run.resume true" in capsys.readouterr().err


def test_what_to_go_on_with_has_to_be_named(config, capsys):
    assert main(["validate", "--config", str(config), "--run.resume=true"]) == 2
    assert "run.resume: name the run to go on with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--model.seed=1", "+ seed: 1"),
        ("--model.mllm.max_new_tokens=5", "max_new_tokens: 5"),
        ("--data.num_frames=3", "num_frames: 3"),
    ],
)
def test_another_config_is_refused_with_the_difference(config, whole, capsys, change, said):
    before = (whole / "records.jsonl").read_bytes()
    assert main(arguments(config, whole, change)) == 2
    error = capsys.readouterr().err
    assert "has another config" in error
    assert said in error
    assert (whole / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["weights", "code", "tokenlab"])
def test_other_weights_or_code_are_refused(config, whole, tmp_path, capsys, name):
    folder = broken_off(whole, tmp_path / "run", 4)
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**environment, name: "other"}))
    assert main(arguments(config, folder)) == 2
    assert f"{name}: other then," in capsys.readouterr().err
