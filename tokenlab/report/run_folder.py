"""The run folder: every record the moment it exists, and at the end of the run its summary, however it ends."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from difflib import unified_diff
from pathlib import Path
from typing import TextIO

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from tokenlab.errors import UserError
from tokenlab.metrics.record import Record
from tokenlab.metrics.summary import Summary, is_hopeless, read_records, summarise
from tokenlab.report.console import Terminal
from tokenlab.report.environment import Environment
from tokenlab.report.files import CONFIG, ENVIRONMENT, RECORDS, write_whole
from tokenlab.report.gallery import draw_gallery
from tokenlab.report.html import PAGE, write_page
from tokenlab.report.overlay import Pictures
from tokenlab.report.scalars import ARMS, log_summary
from tokenlab.report.sidecar import TOKENS, AnswerTokens, read_tokens
from tokenlab.report.terminal import first_answers, terminal_report


class RunFolder(Callback):
    """Keeps config, environment, records, tokens, summary, report.html and the loggers' files of one run in one folder.

    The LightningModule hands each record to `write`. The summary is made in `teardown`, when progress bars are gone,
    or in `on_exception`, after Ctrl-C too; whichever comes first closes the records, so that it is made once.

    Args:
        folder: Where the run is kept; by default a new folder under runs/, named by config and time.
        resume: Go on with a run that broke off in `folder`: what it has recorded is not asked again, and what it was
            made with must be the same. Where there is no such run it begins.
        verbose: Print all tables at the end, not the main one alone.
        tokens: Of how many questions `tokens.jsonl` keeps what became of every visual token; the gallery of
            `report.html` is chosen among them.

    Attributes:
        label: Names the default folder.
        resolved_config: Text of config.yaml; None writes none.
        questions_planned: How many questions the run will ask, to say how far an interrupted run came.
        padding_waste: Share of the positions that the LLM computed on padding, known at the end of the run.
        records: All records so far.
        arms_planned: How many arms it asks.
        on_record: Hears of each record when it is written.
        pictures_of: What the media of a question look like; None draws no gallery.
    """

    def __init__(
        self, folder: str | None = None, resume: bool = False, verbose: bool = False, tokens: int = 200
    ) -> None:
        if tokens < 0:
            raise UserError(f"run.tokens is {tokens}, but must be at least 0, which keeps none")
        if resume and folder is None:
            raise UserError("run.resume: name the run to go on with: --run.folder FOLDER")
        self.folder, self.resume, self.verbose, self.tokens = folder, resume, verbose, tokens
        self.label = "run"
        self.resolved_config: str | None = None
        self.questions_planned: int | None = None
        self.padding_waste: float | None = None
        self.records: list[Record] = []
        self.arms_planned = 0
        self.on_record: Callable[[Record], None] | None = None
        self.pictures_of: Callable[[str], Sequence[Pictures]] | None = None
        self._path: Path | None = None
        self._file: TextIO | None = None
        self._tokens: TextIO | None = None
        self._shown: set[str] = set()  # questions whose tokens are kept
        self._seen: set[tuple[str, str]] = set()
        self._by_arm: dict[str, list[Record]] = defaultdict(list)

    @property
    def path(self) -> Path:
        """The folder; fixed at first use, which makes one that nobody else has where the config names none."""
        if self._path is None and self.folder is None:
            self._path = _new_folder(f"runs/{self.label}-{datetime.now():%Y%m%d-%H%M%S}")
        return self._path or Path(self.folder or "")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the folder, keep the config, and open the records; those of a run that is resumed are read."""
        if self.resume and (self.path / RECORDS).exists():
            self._reopen()
            return
        claim(self.path)
        try:
            if self.resolved_config is not None:
                (self.path / CONFIG).write_text(self.resolved_config, encoding="utf-8")
            self._file = (self.path / RECORDS).open("x", encoding="utf-8")
            self._tokens = (self.path / TOKENS).open("w", encoding="utf-8")
        except FileExistsError as error:  # since it was claimed
            raise _taken(self.path) from error
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _reopen(self) -> None:
        """Goes on behind the last whole record of the same config."""
        path = self.path / RECORDS
        try:
            kept = (self.path / CONFIG).read_text(encoding="utf-8") if self.resolved_config is not None else None
            text = path.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if kept != self.resolved_config:
                raise _other_config(self.path, kept or "", self.resolved_config or "")
            with path.open("r+b") as file:
                file.truncate(len(whole))  # a record that was being written when the run was killed
            self._file = path.open("a", encoding="utf-8")
            known = read_tokens(self.path / TOKENS).values()
            self._shown = {each.uid for each in known}
            _write_whole(self.path / TOKENS, "".join(f"{each.to_json()}\n" for each in known))
            self._tokens = (self.path / TOKENS).open("a", encoding="utf-8")
        except OSError as error:
            raise _unwritable(self.path, error) from error
        for record in read_records(path):
            self._note(record)

    @property
    def answers_planned(self) -> int:
        """How many records the run will hold; an arm that was given up adds no more."""
        given_up = [records for arm, records in self._by_arm.items() if self.is_hopeless(arm)]
        whole_arms = self.arms_planned - len(given_up)
        return (self.questions_planned or 0) * whole_arms + sum(map(len, given_up))

    def keep_environment(self, environment: Environment) -> None:
        """Writes down what the run is made with.

        Raises:
            UserError: If the run that is resumed was made with something else that decides answers.
        """
        path = self.path / ENVIRONMENT
        if self.records and path.exists():
            differences = environment.differences(Environment.from_json(path.read_text(encoding="utf-8")))
            if differences:
                raise UserError(
                    f"run.resume: what is in {self.path} was made with something else ({'; '.join(differences)}): go "
                    "back to that, or name a new folder"
                )
            return
        _write_whole(path, environment.to_json())

    def is_recorded(self, arm: str, uid: str) -> bool:
        """Whether an arm has answered a question already."""
        return (arm, uid) in self._seen

    def is_hopeless(self, arm: str) -> bool:
        """Whether an arm has failed on every question so far, and on enough of them: it is asked no more."""
        return is_hopeless(self._by_arm[arm])

    def wants_tokens_of(self, uid: str) -> bool:
        """Whether `tokens.jsonl` keeps what became of a question's tokens."""
        return uid in self._shown or len(self._shown) < self.tokens

    def write(self, record: Record, tokens: AnswerTokens | None = None) -> None:
        """Append one record and flush it: nothing measured is lost by a crash of the next sample."""
        if self._file is None or self._tokens is None:
            raise RuntimeError("records are written between the set-up and the end of a run")
        if (record.arm, record.uid) in self._seen:
            raise UserError(f"sample {record.uid!r} came to arm {record.arm!r} twice: uids must be unique in the data")
        try:
            if tokens is not None:  # first, so that no record is without
                self._tokens.write(tokens.to_json() + "\n")
                self._tokens.flush()
                self._shown.add(tokens.uid)
            self._file.write(record.to_json() + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error
        was_hopeless = self.is_hopeless(record.arm)
        self._note(record)
        if self.is_hopeless(record.arm) and not was_hopeless:
            first = self._by_arm[record.arm]
            reason = f"{record.arm} failed on all of its first {len(first)} questions and is asked no more"
            print(f"tokenlab: {reason}: {first[0].error}", file=sys.stderr)
        if self.on_record is not None:
            self.on_record(record)

    def _note(self, record: Record) -> None:
        self._seen.add((record.arm, record.uid))
        self._by_arm[record.arm].append(record)
        self.records.append(record)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The run came to its end."""
        self._finish(trainer, complete=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run broke off; what it has measured is reported all the same."""
        self._finish(trainer, complete=False)

    def _finish(self, trainer: Trainer, complete: bool) -> None:
        """Close the records and report what the file holds, unless the run broke off before the first."""
        if self._file is None or self._tokens is None:
            return
        for file in (self._file, self._tokens):
            with suppress(OSError):  # a full disk was reported by `write`; the records before it still count
                file.close()
        self._file = self._tokens = None
        if not self.records and not complete:
            (self.path / RECORDS).unlink()
            (self.path / TOKENS).unlink()
            if self.folder is None:  # nobody else knows it
                shutil.rmtree(self.path, ignore_errors=True)
            return
        records = read_records(self.path / RECORDS)
        summary = summarise(
            records,
            questions_planned=self.questions_planned,
            complete=complete,
            padding_waste=self.padding_waste,
        )
        _write_whole(self.path / "summary.json", summary.to_json())
        try:
            if complete and self.pictures_of is not None:
                draw_gallery(self.path, records, read_tokens(self.path / TOKENS), self.pictures_of)
            log_summary(trainer.loggers, summary, self.path)
            write_page([self.path], self.path / PAGE, summary, records)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._print(summary)

    def _print(self, summary: Summary) -> None:
        """Last of all: whoever reads the table may have stopped reading."""
        console = Terminal()
        try:
            console.print()  # leaves the line of a broken-off progress bar
            console.print(terminal_report(summary, console.width, self.verbose))
            if not any(record.is_scored for record in self.records):
                console.print(first_answers(self.records))
            more = "" if self.verbose else f"; all tables: tokenlab report {self.path} --verbose"
            console.print(f"\nRecords, {PAGE} and logs: {self.path}{more}", markup=False, soft_wrap=True)
            console.file.flush()
        except OSError as error:
            raise UserError(
                f"the table cannot be printed ({error.strerror}); the run is kept in {self.path}"
            ) from error


def default_loggers(folder: str | Path, resume: bool = False) -> list[Logger]:
    """TensorBoard and CSV loggers whose files lie in the run folder itself; those of a run that is resumed are new."""
    # Lightning opens its loggers before any callback's set-up, so a folder that cannot be used must be named here. The
    # CSV logger comes first because it warns of files it finds, such as TensorBoard's.
    if resume and (Path(folder) / RECORDS).exists():
        for old in ("metrics.csv", "hparams.yaml", *(path.name for path in Path(folder).glob("events.out.*"))):
            (Path(folder) / old).unlink(missing_ok=True)
        shutil.rmtree(Path(folder) / ARMS, ignore_errors=True)
    else:
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


def _write_whole(path: Path, text: str) -> None:
    """Writes a file of the run; names the setting to change where it cannot be written."""
    try:
        write_whole(path, text)
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _taken(folder: Path) -> UserError:
    return UserError(
        f"run.folder={folder} already holds {RECORDS} of another run: name a new folder, or none; or go on with that "
        "run by --run.resume true"
    )


def _other_config(folder: Path, kept: str, ours: str) -> UserError:
    lines = unified_diff(kept.splitlines(), ours.splitlines(), "then", "now", n=0, lineterm="")
    changed = [line for line in lines if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    return UserError(
        f"run.resume: the run in {folder} has another config ({'; '.join(changed)}): give that, or name a new folder"
    )


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"run.folder={folder} cannot be written ({error.strerror or error}): name another folder")
