"""What is known of a model family: for tables, pages and programs.

`facts.json` holds it for all families, so that nothing has to be imported to list them; `make facts` writes it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

from tokenlab.compressors.base import TokenCompressor
from tokenlab.compressors.evidence import PoolingAttention, TokenEmbeddings, TowerAttention
from tokenlab.models.families import Family, MediaSpec
from tokenlab.models.families.support import missing_reason, support_note, why_unsupported
from tokenlab.models.vision.auxiliary import KINDS
from tokenlab.schema.arguments import hints
from tokenlab.tokens import Evidence

FamilyFacts = dict[str, Any]
"""Of one family; every value is one of JSON."""

YES, NO, AUXILIARY = "yes", "-", "aux"


def family_facts(model_type: str, family: Family) -> FamilyFacts:
    """Says what a family offers, and what its token grids are."""
    return {
        "model_type": model_type,
        "name": family.name,
        "video": _yes(family.video),
        "token grid": _yes(family.image),
        "[CLS]": _yes(family.has_cls),
        "attn": _offered(family, TowerAttention()),
        "joint text": _offered(family, TokenEmbeddings("clip")),
        "pool head": _offered(family, PoolingAttention()),
        "token wise": _yes(family.projector),
        "tower cuts": _yes(family.norm),
        "M- RoPE": _yes(family.mrope),
        "Deep- Stack": _yes(family.deepstack),
        "images": _grid(family.image),
        "videos": _grid(family.video),
    }


def verdicts(family: Family, name: str, method: type[TokenCompressor]) -> Iterator[FamilyFacts]:
    """Says whether a method runs on a family, and why not, or in what it differs from its authors'."""
    try:
        found = _variants(method)
    except Exception as error:  # another package's, which may ask for more than a budget
        yield {"compressor": name, "variant": "", "runs": "?", "note": f"cannot be built from a budget alone: {error}"}
        return
    for parameters, variant in found.items():
        reason = why_unsupported(family, variant)
        note = reason or support_note(family, variant) or ""
        yield {"compressor": name, "variant": parameters, "runs": NO if reason else YES, "note": note}


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


def _variants(method: type[TokenCompressor]) -> dict[str, TokenCompressor]:
    """A method with each value of a parameter that decides what it looks at, by those values; else it alone."""
    plain = method.example()
    for name, hint in hints(method).items():
        values = get_args(hint) if get_origin(hint) is Literal else ()
        built = {f"({name}: {value})": replace(plain, **{name: value}) for value in values}
        if any(variant.needs() != plain.needs() for variant in built.values()):
            return built
    return {"": plain}
