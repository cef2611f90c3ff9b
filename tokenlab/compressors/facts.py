"""What is known of a compressor: for tables, pages and programs.

`facts.json` holds it for all that come along, so that nothing has to be imported to list them; `make facts` writes it.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from tokenlab.compressors.base import TokenCompressor
from tokenlab.compressors.evidence import FrameScores, LayerAttention, QuestionEmbeddings, StepAttention
from tokenlab.compressors.stages import STAGES
from tokenlab.schema.arguments import describe, hints, parameters
from tokenlab.tokens import Evidence

Facts = dict[str, Any]
"""Of one compressor; every value is one of JSON."""

SEES_QUESTION = (QuestionEmbeddings, FrameScores, LayerAttention, StepAttention)
"""Evidence through which a method looks at the question: its choice is not another question's."""


def facts_of(cls: type[TokenCompressor], parity: str = "") -> Facts:
    """Says what is known of a method; of what it looks at, as it is by default.

    Args:
        cls: The method.
        parity: How it is known to do as its authors' code.
    """
    needs = _needs(cls)
    doc = (inspect.getdoc(cls) or "").strip()
    year = re.search(r"\d{4}", cls.venue)
    return {
        "name": cls.name,
        "stages": [stage.stage for stage in STAGES if issubclass(cls, stage)],
        "kind": cls.kind,
        "budget": cls.budget_unit,
        "temporal": cls.temporal,
        "prefers": list(cls.prefers),
        "looks_at_question": any(isinstance(need, SEES_QUESTION) for need in needs),
        "needs": sorted(map(repr, needs)),
        "paper": cls.paper,
        "year": int(year[0]) if year else None,
        "venue": cls.venue,
        "licence": cls.licence,
        "parity": parity,
        "what": doc.partition("\n")[0],
        "doc": doc,
        "parameters": _parameters(cls),
    }


def _needs(cls: type[TokenCompressor]) -> frozenset[Evidence]:
    """What a method looks at by default; nothing is known of another package's that asks for more than a budget."""
    try:
        return cls.example().needs()
    except Exception:
        return frozenset()


def _parameters(cls: type[TokenCompressor]) -> list[Facts]:
    """Each with its default, what it may be, and whether it is the method's own or has a default of its own."""
    shared, types = parameters(TokenCompressor), hints(cls)
    return [
        {
            "name": name,
            "default": _default(parameter),
            "may_be": describe(types.get(name, Any)),
            "own": name not in shared or parameter.default != shared[name].default,
        }
        for name, parameter in parameters(cls).items()
    ]


def _default(parameter: inspect.Parameter) -> str:
    default = parameter.default
    return "required" if default is inspect.Parameter.empty else "null" if default is None else str(default)
