"""`tokenlab verify`: a random few of somebody's answers, given anew and compared."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import astuple, dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from tokenlab.cli.commands.options import Parser, whole_number
from tokenlab.cli.commands.report import read_run
from tokenlab.errors import UserError
from tokenlab.metrics.record import Record
from tokenlab.report.console import Terminal
from tokenlab.report.environment import Environment
from tokenlab.report.files import CONFIG, ENVIRONMENT, RECORDS
from tokenlab.report.sidecar import TOKENS, read_tokens

SHOWN = 10
"""Differences that are printed."""

COUNTS = ("visual_tokens_in", "visual_tokens_out", "tokens_after", "prompt_tokens", "prefill_tokens", "frames_encoded")

DESCRIPTION = f"""\
Answers a random few of a run's questions anew, with the run's own config, and compares answers, token ids, token counts
and FLOPs. The run folder holds {CONFIG}, {ENVIRONMENT} and {RECORDS}.
"""


@dataclass(frozen=True)
class Found:
    """What came out for one arm.

    Attributes:
        arm: The arm.
        compared: Its answers that were given anew.
        answers: How many are the same, token by token where ids are known.
        tokens: How many have the same token counts.
        flops: How many cost the same FLOPs.
    """

    arm: str
    compared: int
    answers: int
    tokens: int
    flops: int

    @property
    def all_same(self) -> bool:
        """Whether nothing differs."""
        return self.answers == self.tokens == self.flops == self.compared


def show(argv: Sequence[str]) -> int:
    """Prints what is the same and what is not; 1 if something differs."""
    if (options := _parser().read(argv)) is None:
        return 0
    folder = Path(options.run)
    records = read_run(folder)
    if not (folder / CONFIG).is_file() or not (folder / ENVIRONMENT).is_file():
        raise UserError(
            f"verify: {folder} holds no {CONFIG} or no {ENVIRONMENT}: only what `tokenlab` ran can be repeated"
        )
    then = Environment.from_json((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    uids = sorted({record.uid for record in records})
    chosen = set(random.Random(options.seed).sample(uids, min(options.samples, len(uids))))
    with tempfile.TemporaryDirectory() as scratch:
        again = Path(scratch) / "run"
        _answer_again(folder, again, then.command, frozenset(chosen))
        now = Environment.from_json((again / ENVIRONMENT).read_text(encoding="utf-8"))
        found, differences = _compare([each for each in records if each.uid in chosen], folder, again)
    terminal = Terminal()
    terminal.print(f"{len(chosen)} of {len(uids)} questions, answered anew", style="bold")
    for line in now.differences(then):
        terminal.print(f"Made with something else: {line}", markup=False, soft_wrap=True)
    terminal.print(_table(found))
    for line in differences[:SHOWN]:
        terminal.print(line, markup=False, soft_wrap=True)
    if len(differences) > SHOWN:
        terminal.print(f"and {len(differences) - SHOWN} more differences")
    return 0 if all(each.all_same for each in found) else 1


def _answer_again(folder: Path, again: Path, command: str, uids: frozenset[str]) -> None:
    """Runs the run's own config on some of its questions, untimed, into another folder."""
    import yaml

    from tokenlab.cli.commands.lightning_cli import EvaluationCLI
    from tokenlab.cli.commands.run import silence_libraries
    from tokenlab.cli.config.expand import expand, read

    class Some(EvaluationCLI):
        def before_instantiate_classes(self) -> None:
            settings = self.config[command]
            settings.model.timed_questions = settings.model.scored_questions = 0
            settings.run.tokens = len(uids)

        def instantiate_classes(self) -> None:
            super().instantiate_classes()
            self.model.only = uids

    silence_libraries()
    _, configs, _ = read(["--config", str(folder / CONFIG)])
    config = yaml.safe_dump(expand(configs), sort_keys=False)
    with redirect_stdout(io.StringIO()):  # the run's own table
        Some("verify", [command, f"--config={config}", f"--run.folder={again}"])


def _compare(then: Sequence[Record], folder: Path, again: Path) -> tuple[list[Found], list[str]]:
    """Each arm's counts, and a line for each difference."""
    now = {(record.arm, record.uid): record for record in read_run(again)}
    ids_then, ids_now = (read_tokens(place / TOKENS) for place in (folder, again))
    found, differences = [], []
    for arm in dict.fromkeys(record.arm for record in then):
        same = {"answer": 0, "tokens": 0, "FLOPs": 0}
        own = [record for record in then if record.arm == arm and (arm, record.uid) in now]
        for record in own:
            key = (arm, record.uid)
            known = key in ids_then and key in ids_now
            pairs = {
                "answer": (ids_then[key].ids, ids_now[key].ids) if known else (record.answer, now[key].answer),
                "tokens": tuple([getattr(each, name) for name in COUNTS] for each in (record, now[key])),
                "FLOPs": (record.flops, now[key].flops),
            }
            for what, (before, after) in pairs.items():
                same[what] += before == after
                if before != after:
                    shown = (record.answer, now[key].answer) if what == "answer" else (before, after)
                    differences.append(f"{arm}, {record.uid}: {what} {shown[0]!r} then, {shown[1]!r} now")
        found.append(Found(arm, len(own), *same.values()))
    return found, differences


def _table(found: Sequence[Found]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("arm", overflow="fold")
    for heading in ("compared", "same answer", "same tokens", "same FLOPs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        table.add_row(*map(str, astuple(each)))
    return table


def _parser() -> Parser:
    parser = Parser.of_page("verify", DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--samples", type=whole_number(1), default=20, metavar="N", help="questions (default: 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which questions are drawn (default: 0)")
    return parser
