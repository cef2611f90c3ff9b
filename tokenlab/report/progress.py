"""How far a run is: a bar that counts answers, with the arm that answers, its accuracy so far and the time left."""

from __future__ import annotations

from collections import Counter
from time import monotonic
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tokenlab.metrics.record import Record
from tokenlab.report.console import progress_console
from tokenlab.report.run_folder import RunFolder

MINUTE = 60.0
"""Seconds between two lines of a log."""


class AnswerBar(ProgressBar):
    """Shows how far a run is: by a bar on a terminal, and by a line a minute in a log.

    Args:
        console: Where it is drawn; by default standard error, for the table alone goes to standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or progress_console()
        self._wanted, self._said = True, 0.0
        self._right: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[right]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )

    def disable(self) -> None:
        """Shows nothing, as on all processes of a run but the first."""
        self._wanted = False

    def enable(self) -> None:
        """Shows the bar again."""
        self._wanted = True

    def begin(self, run: RunFolder) -> None:
        """Begins to count the answers that a run writes down, behind those that it holds already."""
        if not self._wanted:
            return
        self._said = monotonic()
        task = self._bar.add_task("Answering", total=run.answers_planned, completed=len(run.records), right="")

        def follow(record: Record) -> None:
            right = self._accuracy(record)
            self._bar.update(task, total=run.answers_planned, description=record.arm, right=right, advance=1)
            if not self._console.is_terminal and monotonic() - self._said > MINUTE:
                self._said = monotonic()
                self._console.print(f"{len(run.records)} of {run.answers_planned} answers; {record.arm}: {right}")

        run.on_record = follow
        if self._console.is_terminal:
            self._bar.start()

    def _accuracy(self, record: Record) -> str:
        """How many of the arm's answers are right so far, where anybody knows."""
        if not record.is_scored:
            return ""
        self._answered[record.arm] += 1
        self._right[record.arm] += record.is_right
        return f"{self._right[record.arm] / self._answered[record.arm]:.1%} right"

    def end(self) -> None:
        """Leaves the terminal to what comes next."""
        if self._console.is_terminal:
            self._bar.stop()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins."""
        lightning: Any = trainer  # which sets its callbacks outside its class's sight
        for callback in lightning.callbacks:
            if isinstance(callback, RunFolder):
                self.begin(callback)

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends."""
        self.end()

    on_test_end = on_validation_end
    on_predict_end = on_validation_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends, too."""
        self.end()
