"""The run folder: every record the moment it exists, and at the end of the run its summary, however it ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from tokenlab.errors import UserError
from tokenlab.metrics.record import Record
from tokenlab.metrics.summary import ArmSummary, Summary, read_records, summarise
from tokenlab.report.console import Terminal
from tokenlab.report.terminal import terminal_report

RECORDS = "records.jsonl"


class RunFolder(Callback):
    """Keeps config.yaml, records.jsonl, summary.json and the loggers' files of one run in one folder.

    The LightningModule hands each record to `write`. The summary is made in `teardown`, when progress bars are gone,
    or in `on_exception`, after Ctrl-C too; whichever comes first closes the records, so that it is made once.

    Args:
        folder: Where the run is kept; by default a new folder under runs/, named by config and time.

    Attributes:
        label: Names the default folder.
        resolved_config: Text of config.yaml; None writes none.
        questions_planned: How many questions the run will ask, to say how far an interrupted run came.
        padding_waste: Share of the positions that the LLM computed on padding, known at the end of the run.
        records: All records so far.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self.label = "run"
        self.resolved_config: str | None = None
        self.questions_planned: int | None = None
        self.padding_waste: float | None = None
        self.records: list[Record] = []
        self._path: Path | None = None
        self._file: TextIO | None = None
        self._seen: set[tuple[str, str]] = set()

    @property
    def path(self) -> Path:
        """The folder; fixed at first use, which makes one that nobody else has where the config names none."""
        if self._path is None and self.folder is None:
            self._path = _new_folder(f"runs/{self.label}-{datetime.now():%Y%m%d-%H%M%S}")
        return self._path or Path(self.folder or "")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the folder, keep the config, and open the records."""
        claim(self.path)
        try:
            if self.resolved_config is not None:
                (self.path / "config.yaml").write_text(self.resolved_config, encoding="utf-8")
            self._file = (self.path / RECORDS).open("x", encoding="utf-8")
        except FileExistsError as error:  # since it was claimed
            raise _taken(self.path) from error
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write(self, record: Record) -> None:
        """Append one record and flush it: nothing measured is lost by a crash of the next sample."""
        if self._file is None:
            raise RuntimeError("records are written between the set-up and the end of a run")
        if (record.arm, record.uid) in self._seen:
            raise UserError(f"sample {record.uid!r} came to arm {record.arm!r} twice: uids must be unique in the data")
        try:
            self._file.write(record.to_json() + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._seen.add((record.arm, record.uid))
        self.records.append(record)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The run came to its end."""
        self._finish(trainer, complete=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run broke off; what it has measured is reported all the same."""
        self._finish(trainer, complete=False)

    def _finish(self, trainer: Trainer, complete: bool) -> None:
        """Close the records and report what the file holds, unless the run broke off before the first."""
        if self._file is None:
            return
        with suppress(OSError):  # a full disk was reported by `write`; the records before it still count
            self._file.close()
        self._file = None
        if not self.records and not complete:
            (self.path / RECORDS).unlink()
            if self.folder is None:  # nobody else knows it
                shutil.rmtree(self.path, ignore_errors=True)
            return
        summary = summarise(
            read_records(self.path / RECORDS),
            questions_planned=self.questions_planned,
            complete=complete,
            padding_waste=self.padding_waste,
        )
        _write_whole(self.path / "summary.json", summary.to_json())
        try:
            for logger in trainer.loggers:
                logger.log_metrics(scalars(summary), step=0)
                logger.save()
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._print(summary)

    def _print(self, summary: Summary) -> None:
        """Last of all: whoever reads the table may have stopped reading."""
        console = Terminal()
        try:
            console.print()  # leaves the line of a broken-off progress bar
            console.print(terminal_report(summary, console.width))
            console.print(f"\nRecords, summary and logs: {self.path}", markup=False, soft_wrap=True)
            console.file.flush()
        except OSError as error:
            raise UserError(
                f"the table cannot be printed ({error.strerror}); the run is kept in {self.path}"
            ) from error


def default_loggers(folder: str | Path) -> list[Logger]:
    """TensorBoard and CSV loggers whose files lie in the run folder itself."""
    # Lightning opens its loggers before any callback's set-up, so a folder that cannot be used must be named here. The
    # CSV logger comes first because it warns of files it finds, such as TensorBoard's.
    claim(Path(folder))
    return [
        CSVLogger(folder, name="", version=""),
        TensorBoardLogger(folder, name="", version="", default_hp_metric=False),
    ]


def claim(folder: Path) -> None:
    """Make the folder if need be, and see that a run can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        taken = (folder / RECORDS).exists()
    except OSError as error:
        raise _unwritable(folder, error) from error
    if taken:
        raise _taken(folder)


def _new_folder(name: str) -> Path:
    """A folder that nobody else has, with a number behind its name where another run began in the same second."""
    folder, number = Path(name), 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = Path(f"{name}-{number}")
        except OSError as error:
            raise _unwritable(folder, error) from error


def scalars(summary: Summary) -> dict[str, float]:
    """What loggers get: `NAME/ARM`, so that TensorBoard shows the arms of one quantity side by side."""
    return {
        f"{name}/{row.arm}": float(value)
        for row in summary.arms
        for name, value in _arm_scalars(row).items()
        if value is not None
    }


def _arm_scalars(row: ArmSummary) -> dict[str, float | None]:
    accuracy, cost, against = row.accuracy, row.cost, row.against_baseline
    answers = against and against.answers
    return {
        "accuracy": accuracy and accuracy.mean,
        "accuracy_low": accuracy and accuracy.low,
        "accuracy_high": accuracy and accuracy.high,
        "accuracy_mean_over_types": row.mean_over_types,
        "failed": float(row.failed),
        "visual_tokens": cost and cost.visual_tokens_out,
        "retention": cost and cost.retention,
        "prefill_tokens": cost and cost.prefill_tokens,
        "flops_total": cost and cost.flops.total,
        "seconds": cost and cost.milliseconds.total / 1000,
        "points_against_baseline": answers and answers.points.mean,
        "agreement_with_baseline": against and against.agreement,
        "flops_ratio": against and against.flops_ratio,
        "speedup": against and against.speedup,
        "prefill_speedup": against and against.prefill_speedup,
    }


def _write_whole(path: Path, text: str) -> None:
    """All or nothing: a reader never sees half a file."""
    draft = path.with_name(path.name + ".part")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _taken(folder: Path) -> UserError:
    return UserError(f"run.folder={folder} already holds {RECORDS} of another run: name a new folder, or none")


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"run.folder={folder} cannot be written ({error.strerror or error}): name another folder")
