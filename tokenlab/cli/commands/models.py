"""`tokenlab models`: which families there are, what each offers, and which compressor runs where."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

import tokenlab
from tokenlab.cli.commands.compressors import GROUP
from tokenlab.cli.commands.options import Parser
from tokenlab.errors import UserError
from tokenlab.report.console import Terminal
from tokenlab.schema.arguments import suggest

HELP = """usage: tokenlab models [FAMILY] [--runs COMPRESSOR] [--json]

Lists the model families and what each offers; with a family (its model_type), says more of it, and of every compressor
whether it can run there and, if not, why.

  --runs COMPRESSOR  the families that it runs on
  --json             what is known of each, for programs"""

FACTS = Path(tokenlab.__file__).parent / "models" / "facts.json"
"""Of all families, with the compressors that come along; `make facts` writes it."""

COLUMNS = (
    "video",
    "token grid",
    "[CLS]",
    "attn",
    "joint text",
    "pool head",
    "token wise",
    "tower cuts",
    "M- RoPE",
    "Deep- Stack",
)

LEGEND = (
    "\nattn: attention inside the tower. joint text: images and text in one space. pool head: SigLIP's. aux: where "
    "model.mllm.auxiliary names a CLIP or SigLIP checkpoint. token wise: the projector takes tokens one by one, which "
    "may be merged before it. tower cuts: frames may lose tokens inside the tower.\n"
    "tokenlab models FAMILY says what its token grid is, and which compressors run there."
)


def show(argv: Sequence[str]) -> int:
    """Prints the table of all families, or the page of one."""
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    options, known = _options(argv), listed()
    _check("family", options.family, known)
    _check("compressor", options.runs, {each["compressor"] for one in known.values() for each in one["compressors"]})
    chosen = [
        each
        for name, each in known.items()
        if options.family in (None, name) and (options.runs is None or _runs(each, options.runs))
    ]
    if options.json:
        print(json.dumps(chosen, indent=1))
    elif options.family is None:
        Terminal().print(_families_table(chosen), Text(LEGEND, style="dim"))
    else:
        for each in chosen:
            _print_page(each)
    return 0


def listed() -> dict[str, dict[str, Any]]:
    """What is known of every family, by its model_type."""
    known = {facts["model_type"]: facts for facts in json.loads(FACTS.read_text(encoding="utf-8"))}
    if entry_points(group=GROUP):  # another package's compressors have to be tried
        from tokenlab.compressors import REGISTRY
        from tokenlab.models.facts import verdicts
        from tokenlab.models.families import FAMILIES

        for model_type, facts in known.items():
            there = {each["compressor"] for each in facts["compressors"]}
            for name in sorted(REGISTRY.keys() - there):
                facts["compressors"] += verdicts(FAMILIES[model_type], name, REGISTRY[name])
    return known


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(add_help=False)
    parser.add_argument("family", nargs="?")
    parser.add_argument("--runs")
    parser.add_argument("--json", action="store_true")
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UserError(f"models takes one family, got {' '.join(argv)}")
    return options


def _check(what: str, name: str | None, known: Sequence[str] | Any) -> None:
    if name is not None and name not in known:
        hint = suggest(name, known)
        raise UserError(f"no {what} is called {name!r}{hint}; there are {', '.join(sorted(known))}")


def _runs(facts: dict[str, Any], compressor: str) -> bool:
    return any(each["compressor"] == compressor and each["runs"] == "yes" for each in facts["compressors"])


def _families_table(chosen: Sequence[dict[str, Any]]) -> Table:
    """One row a family: the facts that decide what can be compared on it."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for title in ("family", *COLUMNS):
        table.add_column("\n".join(title.split()), no_wrap=True)
    for facts in chosen:
        table.add_row(facts["model_type"], *(facts[name] for name in COLUMNS))
    return table


def _print_page(facts: dict[str, Any]) -> None:
    """What a family's token grids are; every compressor, and why it cannot run where it cannot."""
    console = Terminal()
    console.print(Text(facts["name"], style="bold"))
    for kind in ("images", "videos"):
        console.print(Text(f"{kind}: {facts[kind]}"))
    table = Table("compressor", "runs", "why not, or how", box=None, pad_edge=False)
    for each in facts["compressors"]:
        table.add_row(Text(f"{each['compressor']} {each['variant']}".strip()), each["runs"], Text(each["note"]))
    console.print(table)
