"""`tokenlab compressors`: what there is to choose from, read from the registry."""

from __future__ import annotations

import inspect
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenlab.compressors import REGISTRY, TokenCompressor
from tokenlab.errors import UserError
from tokenlab.report.console import Terminal
from tokenlab.schema.arguments import describe, hints, parameters, suggest

HELP = "usage: tokenlab compressors [NAME]\n\nLists the compressors, or shows one in full."


def show(argv: list[str]) -> int:
    """Prints the table of all compressors, or the page of one."""
    console = Terminal()
    if {"-h", "--help"} & set(argv):
        print(HELP)
    elif not argv:
        console.print(_table())
    elif len(argv) > 1:
        raise UserError(f"compressors takes one name, got {' '.join(argv)}")
    elif argv[0] not in REGISTRY:
        hint = suggest(argv[0], REGISTRY) or f"; there are {', '.join(sorted(REGISTRY))}"
        raise UserError(f"no compressor is called {argv[0]!r}{hint}")
    else:
        _print_page(console, REGISTRY[argv[0]])
    return 0


def _table() -> Table:
    table = Table("name", "stage", "paper", "what it does, and its own parameters", box=None, pad_edge=False)
    for name, cls in sorted(REGISTRY.items(), key=lambda item: (item[1].stage, item[0])):
        own = ", ".join(f"{parameter}={_default(cls, parameter)}" for parameter in _own(cls))
        table.add_row(name, cls.stage, cls.paper, Text(_summary(cls)).append(f"\n{own}" if own else "", "dim"))
    return table


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
    console.print(Text(f"{cls.name} ({cls.stage})", style="bold"))
    console.print(Text((inspect.getdoc(cls) or "").strip()))
    if cls.paper:
        console.print(Text(f"\nPaper: {cls.paper}"))
    table = Table("parameter", "default", "may be", box=None, pad_edge=False)
    for name in parameters(cls):
        table.add_row(name, _default(cls, name), Text(describe(hints(cls).get(name, Any))))
    console.print(Text("\nParameters"))
    console.print(table)
    console.print(Text(f"\nIn a config\n  pipelines:\n    my_arm: [{{{cls.name}: {{retention_ratio: 0.25}}}}]"))
