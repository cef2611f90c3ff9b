"""`tokenlab compressors`: what there is to choose from, read from the registry."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenlab.cli.commands.new import new
from tokenlab.cli.commands.options import Parser
from tokenlab.compressors import (
    REGISTRY,
    STAGES,
    Evidence,
    FrameScores,
    LayerAttention,
    QuestionEmbeddings,
    StepAttention,
    TokenCompressor,
)
from tokenlab.errors import UserError
from tokenlab.report.console import Terminal
from tokenlab.schema.arguments import describe, hints, parameters, suggest

HELP = """usage: tokenlab compressors [NAME] [--stage STAGE] [--json]
       tokenlab compressors new NAME --stage STAGE [--folder FOLDER]

Lists the compressors, or shows one in full; `new` writes a file that holds one of yours, and its test.

  --stage STAGE  those that act there alone: frames, tower, grid, layers or cache
  --json         what is known of each, for programs"""

SEES_QUESTION = (QuestionEmbeddings, FrameScores, LayerAttention, StepAttention)
"""Evidence through which a method looks at the question: its choice is not another question's."""


def show(argv: list[str]) -> int:
    """Prints the table of all compressors, or the page of one."""
    if argv[:1] == ["new"]:
        return new(argv[1:])
    parser = Parser(add_help=False)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--stage", choices=[stage.stage for stage in STAGES])
    parser.add_argument("--json", action="store_true")
    if {"-h", "--help"} & set(argv):
        print(HELP)
        return 0
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UserError(f"compressors takes one name, got {' '.join(argv)}")
    console, name = Terminal(), arguments.name
    if name is not None and name not in REGISTRY:
        hint = suggest(name, REGISTRY) or f"; there are {', '.join(sorted(REGISTRY))}"
        raise UserError(f"no compressor is called {name!r}{hint}")
    chosen = {key: cls for key, cls in REGISTRY.items() if name in (None, key)}
    if arguments.stage is not None:
        chosen = {key: cls for key, cls in chosen.items() if arguments.stage in _stages(cls)}
    if arguments.json:
        print(json.dumps([_facts(cls) for _, cls in sorted(chosen.items())], indent=1))
    elif name is None:
        console.print(_table(chosen))
    else:
        _print_page(console, REGISTRY[name])
    return 0


def _table(chosen: Mapping[str, type[TokenCompressor]]) -> Table:
    table = Table("name", "stage", "paper", "what it does, and its own parameters", box=None, pad_edge=False)
    for name, cls in sorted(chosen.items(), key=lambda item: (item[1].stage, item[0])):
        own = ", ".join(f"{parameter}={_default(cls, parameter)}" for parameter in _own(cls))
        paper = "\n".join(filter(None, (cls.paper, cls.venue)))
        what = Text(_summary(cls)).append(f"\n{own}" if own else "", "dim")
        table.add_row(name, ", ".join(_stages(cls)), paper, what)
    return table


def _stages(cls: type[TokenCompressor]) -> list[str]:
    """Where a method acts, in the order of the walk."""
    return [stage.stage for stage in STAGES if issubclass(cls, stage)]


def _needs(cls: type[TokenCompressor]) -> frozenset[Evidence]:
    """What a method looks at by default; nothing is known of another package's that asks for more than a budget."""
    try:
        return cls.example().needs()
    except Exception:
        return frozenset()


def _facts(cls: type[TokenCompressor]) -> dict[str, Any]:
    """What is known of a method; of what it looks at, as it is by default."""
    needs = _needs(cls)
    return {
        "name": cls.name,
        "stages": _stages(cls),
        "kind": cls.kind,
        "budget": cls.budget_unit,
        "looks_at_question": any(isinstance(need, SEES_QUESTION) for need in needs),
        "needs": sorted(map(repr, needs)),
        "paper": cls.paper,
        "venue": cls.venue,
        "licence": cls.licence,
        "what": _summary(cls),
    }


def _own(cls: type[TokenCompressor]) -> list[str]:
    """The parameters that are the method's own, or whose default it changes."""
    shared = parameters(TokenCompressor)
    return [n for n, p in parameters(cls).items() if n not in shared or p.default != shared[n].default]


def _default(cls: type[TokenCompressor], name: str) -> str:
    default = parameters(cls)[name].default
    return "required" if default is inspect.Parameter.empty else "null" if default is None else str(default)


def _summary(cls: type[TokenCompressor]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _print_page(console: Console, cls: type[TokenCompressor]) -> None:
    console.print(Text(f"{cls.name} ({', '.join(_stages(cls))})", style="bold"))
    console.print(Text((inspect.getdoc(cls) or "").strip()))
    if cls.paper:
        console.print(Text(f"\nPaper: {', '.join(filter(None, (cls.paper, cls.venue)))}"))
        console.print(Text(f"Licence of the authors' code: {cls.licence or 'not known'}"))
    facts = _facts(cls)
    sees = "looks at the question" if facts["looks_at_question"] else "chooses the same for every question"
    console.print(Text(f"Kind: {cls.kind}; its ratio is met by {cls.budget_unit}; it {sees}"))
    if facts["needs"]:
        console.print(Text(f"Needs: {', '.join(facts['needs'])}"))
    table = Table("parameter", "default", "may be", box=None, pad_edge=False)
    for name in parameters(cls):
        table.add_row(name, _default(cls, name), Text(describe(hints(cls).get(name, Any))))
    console.print(Text("\nParameters"))
    console.print(table)
    console.print(Text(f"\nIn a config\n  pipelines:\n    my_arm: [{{{cls.name}: {{retention_ratio: 0.25}}}}]"))
