"""Runs that are killed and go on: the same records and metrics, and nothing answered twice."""

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
from tokenlab.metrics.record import Milliseconds
from tokenlab.metrics.summary import read_records, summarise

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
        "model": {"mllm": mllm, "pipelines": ARMS},
        "data": {"jsonl": {"file": str(folder / "questions.jsonl"), "root": str(folder), "num_workers": 0}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder / "config.yaml"


def start(config: Path, folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tokenlab", "validate", "--config", str(config), f"--run.folder={folder}"]
    options = ["--run.resume=true", "--trainer.logger=false", "--trainer.accelerator=cpu", *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *options], env={**os.environ, "PYTHONPATH": CHECKOUT}, **pipes)


def untimed(folder: Path) -> dict:
    """A run's records without what the clock says, by arm and question."""
    records = read_records(folder / "records.jsonl")
    assert len({(record.arm, record.uid) for record in records}) == len(records) == TOTAL
    return {(each.arm, each.uid): replace(each, milliseconds=Milliseconds()) for each in records}


def metrics(folder: Path) -> list[dict]:
    """What the summary says of answers, tokens and FLOPs."""
    rows = json.loads((folder / "summary.json").read_text())["arms"]
    for row in rows:
        row["cost"] and [row["cost"].pop(name) for name in ("milliseconds", "milliseconds_median")]
        row["against_baseline"] and [row["against_baseline"].pop(name) for name in ("speedup", "prefill_speedup")]
    return sorted(rows, key=lambda row: row["arm"])


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    """The run, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run = start(config, folder)
    _, error = run.communicate()
    assert run.returncode == 3, error  # there is a video that cannot be read
    return folder


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_been(config, whole, tmp_path, seed):
    folder, kill_at = tmp_path / "run", random.Random(seed).randrange(TOTAL - 1)
    run = start(config, folder)
    while run.poll() is None:
        records = folder / "records.jsonl"
        if records.exists() and records.read_bytes().count(b"\n") > kill_at:
            run.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    run.communicate()
    left = (folder / "records.jsonl").read_bytes()
    (folder / "records.jsonl").write_bytes(left + left[:40])  # as a record that was being written
    before = left.count(b"\n")
    run = start(config, folder)
    _, error = run.communicate()
    assert run.returncode == 3, error
    assert (folder / "records.jsonl").read_bytes().startswith(left[: left.rfind(b"\n") + 1])
    assert untimed(folder) == untimed(whole)
    assert metrics(folder) == metrics(whole)
    assert before <= TOTAL


def test_a_run_that_came_to_its_end_asks_nothing_more(config, whole):
    before = (whole / "records.jsonl").read_bytes()
    run = start(config, whole)
    _, error = run.communicate()
    assert run.returncode == 3, error
    assert (whole / "records.jsonl").read_bytes() == before
    assert json.loads((whole / "summary.json").read_text())["complete"]
    assert summarise(read_records(whole / "records.jsonl")).arms


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--model.seed=1", "seed: 1"),
        ("--model.mllm.max_new_tokens=5", "max_new_tokens: 5"),
        ("--data.num_frames=3", "num_frames: 3"),
    ],
)
def test_another_config_is_refused_with_the_difference(config, whole, change, said):
    before = (whole / "records.jsonl").read_bytes()
    run = start(config, whole, change)
    _, error = run.communicate()
    assert run.returncode == 2
    assert "has another config" in error
    assert said in error
    assert (whole / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["weights", "code", "tokenlab"])
def test_other_weights_or_code_are_refused(config, whole, tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    for file in ("records.jsonl", "config.yaml"):
        (folder / file).write_bytes((whole / file).read_bytes())
    environment = json.loads((whole / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**environment, name: "other"}))
    run = start(config, folder)
    _, error = run.communicate()
    assert run.returncode == 2
    assert f"{name}: other then," in error
