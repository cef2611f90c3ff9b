"""`tokenlab models`: which families there are, what each offers, and which compressor runs where."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args, get_origin

from rich.table import Table
from rich.text import Text

from tokenlab.compressors import REGISTRY, TokenCompressor
from tokenlab.compressors.evidence import PoolingAttention, TokenEmbeddings, TowerAttention
from tokenlab.errors import UserError
from tokenlab.models.families import FAMILIES, Family, MediaSpec
from tokenlab.models.families.support import missing_reason, support_note, why_unsupported
from tokenlab.models.vision.auxiliary import KINDS
from tokenlab.report.console import Terminal
from tokenlab.schema.arguments import hints, suggest
from tokenlab.tokens import Evidence

HELP = """\
usage: tokenlab models [FAMILY]

Lists the model families and what each offers; with a family (its model_type), says more of it, and of every compressor
whether it can run there and, if not, why."""

YES, NO, AUXILIARY = "yes", "-", "aux"

FACTS: dict[str, Callable[[Family], str]] = {
    "video": lambda family: _yes(family.video),
    "token\ngrid": lambda family: _yes(family.image),
    "[CLS]": lambda family: _yes(family.has_cls),
    "attn": lambda family: _offered(family, TowerAttention()),
    "joint\ntext": lambda family: _offered(family, TokenEmbeddings("clip")),
    "pool\nhead": lambda family: _offered(family, PoolingAttention()),
    "token\nwise": lambda family: _yes(family.projector),
    "tower\ncuts": lambda family: _yes(family.norm),
    "M-\nRoPE": lambda family: _yes(family.mrope),
    "Deep-\nStack": lambda family: _yes(family.deepstack),
}
"""What the columns of the table say of a family."""

LEGEND = (
    "\nattn: attention inside the tower. joint text: images and text in one space. pool head: SigLIP's. aux: where "
    "model.mllm.auxiliary names a CLIP or SigLIP checkpoint. token wise: the projector takes tokens one by one, which "
    "may be merged before it. tower cuts: frames may lose tokens inside the tower.\n"
    "tokenlab models FAMILY says what its token grid is, and which compressors run there."
)


def show(argv: list[str]) -> int:
    """Prints the table of all families, or the page of one."""
    console = Terminal()
    if {"-h", "--help"} & set(argv):
        print(HELP)
    elif not argv:
        console.print(families_table())
        console.print(Text(LEGEND, style="dim"))
    elif len(argv) > 1:
        raise UserError(f"models takes one family, got {' '.join(argv)}")
    elif argv[0] not in FAMILIES:
        raise UserError(f"no family is called {argv[0]!r}{suggest(argv[0], FAMILIES)}; there are {', '.join(FAMILIES)}")
    else:
        family = FAMILIES[argv[0]]
        console.print(Text(family.name, style="bold"))
        for kind, spec in (("images", family.image), ("videos", family.video)):
            console.print(Text(f"{kind}: {_grid(spec)}"))
        console.print(compressors_table(family))
    return 0


def families_table() -> Table:
    """One row a family: the facts that decide what can be compared on it."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for title in ("family", *FACTS):
        table.add_column(title, no_wrap=True)
    for model_type, family in FAMILIES.items():
        table.add_row(model_type, *(say(family) for say in FACTS.values()))
    return table


def _yes(fact: object) -> str:
    return YES if fact else NO


def _offered(family: Family, need: Evidence) -> str:
    if missing_reason(family, need) is None:
        return YES
    return AUXILIARY if missing_reason(family, need, KINDS) is None else NO


def _grid(spec: MediaSpec | None) -> str:
    """What a medium's token grid is."""
    if spec is None:
        return "not read"
    frames = ", a frame an image in the prompt" if spec.frames_as_images else ""
    layout = (inspect.getdoc(spec.places) or "").partition("\n")[0].rstrip(".").rpartition(": ")[2]
    return layout[0].lower() + layout[1:] + frames


def compressors_table(family: Family) -> Table:
    """Every compressor, and why it cannot run where it cannot, or in what it differs from its authors'."""
    table = Table("compressor", "runs", "why not, or how", box=None, pad_edge=False)
    for name, method in sorted(REGISTRY.items()):
        try:
            found = variants(method)
        except Exception as error:  # another package's, which may ask for more than a budget
            table.add_row(Text(name), "?", f"cannot be built from a budget alone: {error}")
            continue
        for parameters, variant in found.items():
            reason = why_unsupported(family, variant)
            table.add_row(
                Text(f"{name} {parameters}".strip()), NO if reason else YES, reason or support_note(family, variant)
            )
    return table


def variants(method: type[TokenCompressor]) -> dict[str, TokenCompressor]:
    """A method with each value of a parameter that decides what it looks at, by those values; else it alone."""
    plain = method.example()
    for name, hint in hints(method).items():
        values = get_args(hint) if get_origin(hint) is Literal else ()
        built = {f"({name}: {value})": replace(plain, **{name: value}) for value in values}
        if any(variant.needs() != plain.needs() for variant in built.values()):
            return built
    return {"": plain}
