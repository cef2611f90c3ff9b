"""`tokenlab check`: whether a compressor, anybody's, keeps what every compressor promises."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.text import Text

from tokenlab.cli.commands.doctor import QUICK
from tokenlab.cli.commands.options import Parser, whole_number
from tokenlab.compressors import TokenCompressor
from tokenlab.compressors.spelling import find_compressor
from tokenlab.errors import UserError
from tokenlab.report.console import Terminal, progress_console

if TYPE_CHECKING:
    from tokenlab.testing.promises import Promise

INDENT = len("broken  ")


def show(argv: Sequence[str]) -> int:
    """Prints a line for each promise, and how it is broken; 1 where one is."""
    parser = Parser(
        prog="tokenlab check",
        description="Checks a compressor against what all of them promise, on random tokens and in tiny models.",
    )
    parser.add_argument("method", help="a name, package.module:Class, or file.py:Class")
    parser.add_argument("--examples", type=whole_number(1), default=100, help="drawn inputs a promise (default: 100)")
    options = parser.parse_args(argv)
    if find_spec("hypothesis") is None:
        raise UserError("check: needs hypothesis, which draws the inputs: pip install hypothesis")
    cls, console = find_compressor("check", options.method), Terminal()
    _example(cls)
    found = []
    with progress_console().status("Checking"):
        for name, failure in _checks(cls, options.examples):
            console.print(Text("broken  " if failure else "kept    ", "red" if failure else "green").append(name))
            if failure:
                console.print(Padding(Text(failure), (0, 0, 0, INDENT)), end="")
            found.append(failure)
    console.print(Text(f"{cls.name}: {found.count('')} of {len(found)} promises kept"))
    return 0 if found.count("") == len(found) else 1


def _example(cls: type[TokenCompressor]) -> TokenCompressor:
    try:
        return cls.example()
    except Exception as error:
        raise UserError(
            f"check: {cls.__name__}.example() raises {type(error).__name__}: {error}; override it where a ratio alone "
            "does not build one"
        ) from None


def _checks(cls: type[TokenCompressor], examples: int) -> Iterator[tuple[str, str]]:
    """What is promised, and how it is broken; on random tokens first, and in tiny models if all is well there."""
    from hypothesis import settings

    from tokenlab.testing.promises import promises_of

    settings.register_profile("tokenlab check", max_examples=examples, deadline=None, database=None)
    before, well = settings.get_current_profile_name(), True
    settings.load_profile("tokenlab check")
    try:
        for promise in promises_of(_example(cls)):
            failure = _broken(promise, cls)
            well = well and not failure
            yield promise.name, failure
    finally:
        settings.load_profile(before)
    if well:
        yield from _in_models(cls)


def _broken(promise: Promise, cls: type[TokenCompressor]) -> str:
    """How, in a line; with what was drawn where it was seen."""
    from tokenlab.testing.promises import BrokenPromise

    try:
        promise.check(cls.example)
    except BrokenPromise as error:
        return f"{error}{_drawn(error)}"
    except Exception as error:  # whatever the method raises
        return f"raises {type(error).__name__}: {error}{_drawn(error)}"
    return ""


def _drawn(error: Exception) -> str:
    found = re.search(r"_\((.*?)\n\)", "\n".join(getattr(error, "__notes__", ())), re.DOTALL)
    if not found:
        return ""
    lines = (line.partition("#")[0].strip() for line in found[1].splitlines())
    return f" (at {' '.join(filter(None, lines)).rstrip(',')})"


def _in_models(cls: type[TokenCompressor]) -> Iterator[tuple[str, str]]:
    from transformers.utils.logging import disable_progress_bar

    from tokenlab.models.mllm import LoadedModel
    from tokenlab.models.settings import MLLM
    from tokenlab.testing import ANSWER_TOKENS, SAVERS
    from tokenlab.testing.exactness import check_method

    disable_progress_bar()
    for name in QUICK:
        with tempfile.TemporaryDirectory() as folder:
            SAVERS[name](Path(folder) / name)
            settings = MLLM(str(Path(folder) / name), max_new_tokens=ANSWER_TOKENS, auxiliary={"clip": "shapes"})
            for check in check_method(name, _example(cls), LoadedModel.load(settings)):
                yield f"tiny {name}: {check.name}", check.failure
