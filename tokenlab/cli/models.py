"""`tokenlab models`: which families there are, what each offers, and which compressor runs where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenlab.cli.signatures import near_miss
from tokenlab.compressors import REGISTRY, TokenCompressor
from tokenlab.errors import UserError
from tokenlab.models.families import FAMILIES, Family

HELP = """\
usage: tokenlab models [FAMILY]

Lists the model families and what each offers; with a family (its model_type), says of every compressor whether it can
run there and, if not, why."""

YES, NO = "yes", "-"


def show(argv: list[str]) -> int:
    """Prints the table of all families, or the page of one."""
    console = Console(highlight=False)
    if {"-h", "--help"} & set(argv):
        print(HELP)
    elif not argv:
        console.print(families_table())
        console.print(Text("\ntokenlab models FAMILY says which compressors run there.", style="dim"))
    elif len(argv) > 1:
        raise UserError(f"models takes one family, got {' '.join(argv)}")
    elif argv[0] not in FAMILIES:
        raise UserError(
            f"no family is called {argv[0]!r}{near_miss(argv[0], FAMILIES)}; there are {', '.join(FAMILIES)}"
        )
    else:
        console.print(Text(FAMILIES[argv[0]].name, style="bold"))
        console.print(compressors_table(FAMILIES[argv[0]]))
    return 0


def families_table() -> Table:
    """One row a family: the facts that decide what can be compared on it."""
    titles = ("video", "[CLS]", "token-\nwise", "tower\ncuts", "M-\nRoPE", "Deep-\nStack")
    table = Table("family", "model", *titles, box=None)
    table.columns[0].no_wrap = True
    for model_type, family in FAMILIES.items():
        facts = (family.has_cls, family.token_wise_projector, bool(family.norm), family.mrope, family.deepstack)
        table.add_row(model_type, family.name, _video(family), *(YES if fact else NO for fact in facts))
    return table


def _video(family: Family) -> str:
    if family.video is None:
        return NO
    return "images" if family.video.item_per_frame else YES


def compressors_table(family: Family) -> Table:
    """Every compressor, and why it cannot run where it cannot."""
    table = Table("compressor", "runs", "why not", box=None)
    for name, method in sorted(REGISTRY.items()):
        for parameters, reason in verdicts(family, method).items():
            table.add_row(Text(f"{name} {parameters}".strip()), NO if reason else YES, reason or "")
    return table


def verdicts(family: Family, method: type[TokenCompressor]) -> Mapping[str, str | None]:
    """Why a method cannot run on a family, by the parameters that decide it; None where it can."""
    plain = method(retention_ratio=0.5)
    variants: dict[str, TokenCompressor] = {"": plain}
    if "space" in method.__dataclass_fields__:
        build: Any = method
        variants = {f"({space})": build(retention_ratio=0.5, space=space) for space in ("llm", "clip")}
    return {parameters: family.refusal(variant) for parameters, variant in variants.items()}
