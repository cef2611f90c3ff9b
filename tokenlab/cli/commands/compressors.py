"""`tokenlab compressors`: what there is to choose from, at once: only other packages' have to be imported for it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import tokenlab
from tokenlab.cli.commands.options import Parser
from tokenlab.errors import UserError
from tokenlab.report.console import Terminal
from tokenlab.schema.arguments import suggest

HELP = """usage: tokenlab compressors [NAME] [--stage STAGE] [--kind KIND] [--question yes|no] [--json]
       tokenlab compressors new NAME --stage STAGE [--folder FOLDER]

Lists the compressors, or shows one in full; `new` writes a file that holds one of yours, and its test.

  --stage STAGE      those that act there: frames, tower, grid, layers or cache
  --kind KIND        those that prune, that merge, or that do both
  --question yes|no  those whose choice depends on the question, or does not, so that it serves the next one too
  --json             what is known of each, for programs"""

FACTS = Path(tokenlab.__file__).parent / "compressors" / "facts.json"
"""Of the compressors that come along; `make facts` writes it."""
GROUP = "tokenlab.compressors"


def show(argv: Sequence[str]) -> int:
    """Prints the table of all compressors, or the page of one."""
    if argv[:1] == ["new"]:
        from tokenlab.cli.commands.new import new

        return new(argv[1:])
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    options, known = _options(argv), listed()
    name = options.name
    if name is not None and name not in known:
        hint = suggest(name, known) or f"; there are {', '.join(sorted(known))}"
        raise UserError(f"no compressor is called {name!r}{hint}")
    chosen = [known[each] for each in sorted(known) if name in (None, each) and _fits(known[each], options)]
    if options.json:
        print(json.dumps(chosen, indent=1))
    elif name is None:
        Terminal().print(_table(chosen))
    else:
        _print_page(Terminal(), known[name])
    return 0


def listed() -> dict[str, dict[str, Any]]:
    """What is known of every compressor, by name."""
    known = {facts["name"]: facts for facts in json.loads(FACTS.read_text(encoding="utf-8"))}
    if entry_points(group=GROUP):
        from tokenlab.compressors import REGISTRY
        from tokenlab.compressors.facts import facts_of

        known |= {name: facts_of(cls) for name, cls in REGISTRY.items() if name not in known}
    return known


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(add_help=False)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--stage", choices=["frames", "pixels", "tower", "grid", "layers", "cache"])
    parser.add_argument("--kind", choices=["prune", "merge", "both"])
    parser.add_argument("--question", choices=["yes", "no"])
    parser.add_argument("--json", action="store_true")
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UserError(f"compressors takes one name, got {' '.join(argv)}")
    return options


def _fits(facts: dict[str, Any], options: argparse.Namespace) -> bool:
    return (
        options.stage in (None, *facts["stages"])
        and options.kind in (None, facts["kind"])
        and options.question in (None, "yes" if facts["looks_at_question"] else "no")
    )


def _table(chosen: Sequence[dict[str, Any]]) -> Table:
    table = Table("name", "stage", "paper", "what it does, and its own parameters", box=None, pad_edge=False)
    for facts in sorted(chosen, key=lambda facts: (facts["stages"][0], facts["name"])):
        own = ", ".join(f"{each['name']}={each['default']}" for each in facts["parameters"] if each["own"])
        paper = "\n".join(filter(None, (facts["paper"], facts["venue"])))
        what = Text(facts["what"]).append(f"\n{own}" if own else "", "dim")
        table.add_row(facts["name"], ", ".join(facts["stages"]), paper, what)
    return table


def _print_page(console: Console, facts: dict[str, Any]) -> None:
    console.print(Text(f"{facts['name']} ({', '.join(facts['stages'])})", style="bold"))
    console.print(Text(facts["doc"]))
    if facts["paper"]:
        console.print(Text(f"\nPaper: {', '.join(filter(None, (facts['paper'], facts['venue'])))}"))
        console.print(Text(f"Licence of the authors' code: {facts['licence'] or 'not known'}"))
    if facts["parity"]:
        console.print(Text(f"Parity: {facts['parity']}"))
    sees = "looks at the question" if facts["looks_at_question"] else "chooses the same for every question"
    console.print(Text(f"Kind: {facts['kind']}; its ratio is met by {facts['budget']}; it {sees}"))
    if facts["needs"]:
        console.print(Text(f"Needs: {', '.join(facts['needs'])}"))
    table = Table("parameter", "default", "may be", box=None, pad_edge=False)
    for each in facts["parameters"]:
        table.add_row(each["name"], each["default"], Text(each["may_be"]))
    console.print(Text("\nParameters"))
    console.print(table)
    console.print(Text(f"\nIn a config\n  pipelines:\n    my_arm: [{{{facts['name']}: {{retention_ratio: 0.25}}}}]"))
