"""`tokenlab doctor`: which versions are here and which are tested, and whether the tiny models still answer exactly."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from rich.progress import track
from rich.table import Table

from tokenlab.report.console import Terminal, progress_console

QUICK = ("llava", "llava_onevision", "qwen3_vl")
"""One family a way of reading: what is checked unless all are asked for."""


def show(argv: Sequence[str]) -> int:
    """Prints versions, and checks contract and exactness; 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="tokenlab doctor", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--all", action="store_true", help="check every family, not one a way of reading")
    parser.add_argument("--versions", action="store_true", help="only say which versions are here")
    options = parser.parse_args(argv)
    console = Terminal()
    console.print(versions_table())
    if options.versions:
        return 0
    from tokenlab.testing import SAVERS
    from tokenlab.testing.exactness import check_families

    families = list(SAVERS) if options.all else list(QUICK)
    with tempfile.TemporaryDirectory() as folder:
        checks = check_families(families, Path(folder))
        found = list(track(checks, "Checking tiny models", console=progress_console(), transient=True))
    failed = [check for check in found if check.failure]
    for check in failed:
        console.print(f"{check.family}: {check.name}: {check.failure}", style="red", markup=False)
    console.print(f"{len(found) - len(failed)} of {len(found)} checks passed on {', '.join(families)}", markup=False)
    return 1 if failed else 0


def versions_table() -> Table:
    """What is installed of everything that tokenlab depends on, beside what it was tested with."""
    table = Table("package", "here", "tested", "", box=None, pad_edge=False)
    for requirement in dependencies():
        try:
            here = version(requirement.name)
        except PackageNotFoundError:
            here = "missing"
        tested = here != "missing" and requirement.specifier.contains(here.partition("+")[0])
        table.add_row(requirement.name, here, str(requirement.specifier), "" if tested else "untested")
    return table


def dependencies() -> Iterator[Requirement]:
    """What tokenlab cannot do without, from its own metadata; a range ends where tests did."""
    for line in requires("tokenlab") or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement
