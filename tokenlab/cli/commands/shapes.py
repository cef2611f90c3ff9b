"""`tokenlab shapes`: trains the embedded model from nothing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from tokenlab.cli.commands.options import Parser
from tokenlab.errors import UserError
from tokenlab.training import recipe


def show(argv: Sequence[str]) -> int:
    """Runs the recipe, or goes on with a run that was cut off."""
    parser = Parser(prog="tokenlab shapes", description=(recipe.__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--output", type=Path, required=True, help="folder for llava/, clip/ and work/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds which teaches nothing")
    arguments = parser.parse_args(argv)
    plan = recipe.SMOKE if arguments.smoke else recipe.FULL
    _refuse_another_run(arguments.output / "work", f"seed {arguments.seed}, {plan}\n", arguments.resume)
    recipe.run(arguments.output, plan, arguments.seed, shlex.join(["tokenlab", "shapes", *argv]))
    return 0


def _refuse_another_run(work: Path, settings: str, resume: bool) -> None:
    """Keeps a run from going on with the checkpoints of a different one."""
    note = work / "settings.txt"
    if not resume and work.exists():
        raise UserError(f"--output: {work} holds an earlier run: add --resume to go on with it, or name another folder")
    if note.exists() and note.read_text() != settings:
        raise UserError(f"--output: {work} holds a run with another seed or plan: name another folder")
    work.mkdir(parents=True, exist_ok=True)
    note.write_text(settings)
