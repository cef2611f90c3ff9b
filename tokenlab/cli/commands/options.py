"""Command lines with options of their own: their parser, and what several options take."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tokenlab.cli.config.messages import short_message
from tokenlab.errors import UserError
from tokenlab.models.costs.configs import SHIPPED
from tokenlab.schema.arguments import suggest

if TYPE_CHECKING:
    from tokenlab.compressors import Pipeline


class Parser(argparse.ArgumentParser):
    """One whose complaints are a user's mistakes."""

    def error(self, message: str) -> NoReturn:
        """One line instead of a page."""
        mistake = re.match(r"argument (--[\w-]+)[^:]*: (.*)", message)
        raise UserError(
            f"{mistake[1]}: {mistake[2]}" if mistake else short_message(message, self._option_string_actions)
        )

    @classmethod
    def of_page(cls, command: str, description: str, examples: str | None = None) -> Parser:
        """One whose help is a page of its own layout, and whose options are written out."""
        return cls(
            prog=f"tokenlab {command}",
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def read(self, argv: Sequence[str]) -> argparse.Namespace | None:
        """The options; None where help is asked for, which is printed, whatever else is wrong."""
        if {"-h", "--help"} & set(argv):
            self.print_help()
            return None
        return self.parse_args(list(argv))


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option that counts something."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text}")
        return number

    return read


def resolution(text: str) -> tuple[int, int]:
    """Height and width, from `WIDTHxHEIGHT`."""
    sides = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not sides:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, such as 640x360, got {text}")
    return int(sides[2]), int(sides[1])


def known_checkpoint(name: str) -> str:
    """The name as it is, unless it looks like a slip in one that comes along."""
    if "/" not in name and not Path(name).exists() and (hint := suggest(name, SHIPPED)) and name not in SHIPPED:
        raise UserError(f"--checkpoint: no config of the name {name!r} comes along{hint}")
    return name


def writable(name: str | None) -> Path | None:
    """Where to write, if it can be written to; asked before the work begins."""
    if name is None:
        return None
    path = Path(name)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(
            f"--json: cannot write {name}: {'it is a folder' if path.is_dir() else 'there is no such folder'}"
        )
    return path


def read_pipelines(texts: Sequence[str]) -> dict[str, Pipeline]:
    """The arms, built, from `ARM=[...]` or `topic@0.5`; mistakes are named as they would be in a config."""
    from tokenlab.compressors.spelling import build_pipelines, expand_pipelines
    from tokenlab.models.costs.profile import BASELINE
    from tokenlab.schema.files import parse_yaml

    arms: dict[str, Any] = {}
    for text in texts:
        arm, equals, steps = text.partition("=")
        if not equals and re.fullmatch(r"\w+@[\d.]+", text):
            arm, equals, steps = text, "=", text
        if not equals or not arm.strip() or not re.fullmatch(r"[^\[{]+", arm):
            raise UserError(
                f"--pipeline: write ARM=[COMPRESSORS], such as 'mine=[{{topic: {{retention_ratio: 0.5}}}}]', got {text}"
            )
        if arm in arms or arm == BASELINE:
            known = "is always there, as the untouched model" if arm == BASELINE else "is given twice"
            raise UserError(f"--pipeline: {arm} {known}; choose another name")
        arms[arm] = parse_yaml(steps, f"--pipeline {arm}")
    if not arms:
        return {}
    try:
        return build_pipelines(expand_pipelines(arms))
    except UserError as error:
        raise UserError(str(error).replace("model.pipelines.", "--pipeline ", 1)) from None
