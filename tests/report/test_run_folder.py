"""The run folder under a real Trainer: the end, an exception, Ctrl-C, and places that cannot be written."""

import csv
import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from tokenlab.errors import UserError
from tokenlab.metrics.record import Flops, Milliseconds, Record
from tokenlab.metrics.summary import read_records, summarise
from tokenlab.report.run_folder import RunFolder, default_loggers

ARMS = ("full", "half")
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:predict returned None")


def record(uid, arm="full"):
    question, times = (str(uid), "v", arm, arm, "", "?", ["yes"]), Milliseconds(tower=200.0, prefill=50.0)
    return Record(*question, correct=uid % 2 == 0, flops=Flops(tower=1000), milliseconds=times)


class Toy(LightningModule):
    """One question a batch; the last arm of a chosen question raises instead."""

    def __init__(self, run, breaks_at=None, error=None):
        super().__init__()
        self.run, self.breaks_at, self.error = run, breaks_at, error

    def answer(self, batch):
        uid = int(batch)
        for arm in ARMS:
            if uid == self.breaks_at and arm == ARMS[-1]:
                raise self.error
            self.run.write(record(uid, arm))

    def validation_step(self, batch):
        self.answer(batch)

    def test_step(self, batch):
        self.answer(batch)

    def predict_step(self, batch):
        self.answer(batch)


@pytest.fixture
def validate(tmp_path):
    def start(run, verb="validate", loggers=True, **toy):
        trainer = Trainer(
            accelerator="cpu",
            callbacks=[run],
            logger=default_loggers(run.path) if loggers else False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        getattr(trainer, verb)(Toy(run, **toy), DataLoader(torch.arange(4)))

    return start


def tables(text):
    return text.count("questions, 1 video")


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_run_leaves_records_summary_and_one_table(validate, verb, tmp_path, capsys):
    run = RunFolder(str(tmp_path / "run"))
    run.resolved_config = "seed: 1\n"
    validate(run, verb)
    assert (run.path / "config.yaml").read_text() == "seed: 1\n"
    assert read_records(run.path / "records.jsonl") == run.records == [record(i, arm) for i in range(4) for arm in ARMS]
    assert (run.path / "summary.json").read_text() == summarise(run.records).to_json()
    text = capsys.readouterr().out
    assert tables(text) == 1
    assert "PARTIAL" not in text
    assert str(run.path) in text.replace("\n", "")


def test_loggers_write_the_summary_into_the_folder_itself(validate, tmp_path, recwarn):
    run = RunFolder(str(tmp_path / "run"))
    validate(run)
    kinds = {path.name.split(".")[0] for path in run.path.iterdir()}
    assert kinds - {"hparams"} == {"arms", "records", "tokens", "summary", "report", "metrics", "events"}
    with (run.path / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    wanted = {"accuracy/full": 0.5, "flops_total/half": 1000, "seconds/half": 0.25, "failed/full": 0}
    assert {name: float(row[name]) for name in wanted} == wanted
    for name, value in wanted.items():
        quantity, arm = name.split("/")
        (found,) = EventAccumulator(str(run.path / "arms" / arm)).Reload().Scalars(quantity)
        assert found.value == value
    assert not [warning for warning in recwarn if "not empty" in str(warning.message)]


@pytest.mark.parametrize(
    ("error", "raised"), [(ValueError("a bug"), ValueError), (KeyboardInterrupt(), SystemExit)], ids=["bug", "ctrl-c"]
)
def test_a_broken_off_run_is_reported_as_partial(validate, tmp_path, capsys, error, raised):
    run = RunFolder(str(tmp_path / "run"))
    run.questions_planned = 4
    with pytest.raises(raised):
        validate(run, breaks_at=2, error=error)
    text = capsys.readouterr().out
    assert tables(text.replace("\n", " ")) == 1
    assert "PARTIAL RUN: 2 of 4 questions asked of every arm" in text
    assert len(read_records(run.path / "records.jsonl")) == 5
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["complete"], summary["questions"], summary["questions_of_all_arms"]) == (False, 3, 2)
    assert (run.path / "metrics.csv").exists()


def test_a_run_that_breaks_off_before_its_first_record_leaves_the_folder_free(validate, tmp_path, capsys):
    class Unloadable(RunFolder):
        def on_validation_start(self, trainer, pl_module):
            raise ValueError("no weights")

    with pytest.raises(ValueError, match="no weights"):
        validate(Unloadable(str(tmp_path)), loggers=False)
    assert capsys.readouterr().out == ""
    validate(RunFolder(str(tmp_path)), loggers=False)


def test_records_are_on_disk_at_once(tmp_path):
    run = RunFolder(str(tmp_path))
    run.setup(Trainer(logger=False, accelerator="cpu", enable_progress_bar=False), LightningModule(), "validate")
    run.write(record(0))
    assert read_records(tmp_path / "records.jsonl") == [record(0)]
    with pytest.raises(UserError, match="sample '0' came to arm 'full' twice"):
        run.write(record(0))
    run._file.close()
    run._tokens.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_a_user_error_and_earlier_records_are_reported(tmp_path, capsys):
    run = RunFolder(str(tmp_path))
    trainer = Trainer(logger=False, accelerator="cpu", enable_progress_bar=False)
    run.setup(trainer, LightningModule(), "validate")
    run.write(record(0))
    run._file.close()
    run._tokens.close()
    with open("/dev/full", "w") as run._file:
        with pytest.raises(UserError, match=r"run\.folder=.* cannot be written \(No space left"):
            run.write(record(1))
        capsys.readouterr()
        run.on_exception(trainer, LightningModule(), UserError("disk"))
    assert "PARTIAL RUN: 1 questions" in capsys.readouterr().out


@pytest.mark.parametrize("loggers", [True, False], ids=["loggers first", "callback first"])
@pytest.mark.parametrize("place", ["file", "file/run", "/proc/run"])
def test_places_that_cannot_be_written_are_named(validate, tmp_path, loggers, place):
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / place)
    with pytest.raises(UserError, match=rf"run\.folder={folder} cannot be written \(.+\): name another folder"):
        validate(RunFolder(folder), loggers=loggers)


def test_a_folder_with_records_is_never_written_again(validate, tmp_path):
    run = RunFolder(str(tmp_path))
    validate(run, loggers=False)
    for again in (run, RunFolder(str(tmp_path))):
        with pytest.raises(UserError, match=r"already holds records\.jsonl"):
            validate(again, loggers=False)
    assert len(read_records(tmp_path / "records.jsonl")) == 8


def test_default_path_is_named_by_label_and_time_and_fixed_at_first_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder()
    run.label = "quickstart"
    assert run.path.match("runs/quickstart-????????-??????")
    run.label = "other"
    assert run.path.match("runs/quickstart-*")


def test_runs_of_one_second_get_a_folder_each(tmp_path, monkeypatch):
    class Noon(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 12)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tokenlab.report.run_folder.datetime", Noon)
    paths = [str(RunFolder().path) for _ in range(3)]
    assert paths == [f"runs/run-20260102-120000{more}" for more in ("", "-2", "-3")]


def test_a_run_that_records_nothing_leaves_no_folder_of_its_own(validate, tmp_path, monkeypatch):
    class Unloadable(RunFolder):
        def on_validation_start(self, trainer, pl_module):
            raise ValueError("no weights")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no weights"):
        validate(Unloadable())
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("file", [None, "/dev/full"], ids=["closed pipe", "full disk"])
def test_what_cannot_be_printed_is_kept(validate, tmp_path, monkeypatch, file):
    """Whoever reads the table may stop before it comes: `validate ... | head`."""
    if file is None:
        reader, writer = os.pipe()
        os.close(reader)
        file = writer
    elif not Path(file).exists():
        pytest.skip("needs a device that is always full")
    run, out = RunFolder(str(tmp_path)), open(file, "w")  # noqa: SIM115 - closing it fails as well
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", out)
        with pytest.raises(UserError, match=rf"the table cannot be printed \(.+\); the run is kept in {tmp_path}"):
            validate(run)
    with suppress(OSError):
        out.close()
    assert json.loads((tmp_path / "summary.json").read_text())["complete"]
    assert (tmp_path / "metrics.csv").exists()
    assert EventAccumulator(str(tmp_path / "arms" / "full")).Reload().Scalars("accuracy")


def test_write_outside_a_run_is_refused(tmp_path):
    run = RunFolder(str(tmp_path))
    with pytest.raises(RuntimeError, match="between the set-up and the end"):
        run.write(record(0))
