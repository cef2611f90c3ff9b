"""A pipeline: an ordered list of compressors on one model, checked before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TypeVar

from tokenlab.compressors.base import STAGES, GridReduction, TokenCompressor, TowerReduction
from tokenlab.compressors.evidence import ProjectorInput
from tokenlab.tensors import Evidence

Stage = TypeVar("Stage", bound=TokenCompressor)


@dataclass(frozen=True)
class Pipeline:
    """Compressors in the order in which they act; the empty pipeline is the untouched model.

    Raises:
        ValueError: If the order cannot work; the message names the order that does.
    """

    compressors: tuple[TokenCompressor, ...] = ()

    def __post_init__(self) -> None:
        """Refuses an order that cannot work."""
        for earlier, later in pairwise(self.compressors):
            if _first_stage(later) < _first_stage(earlier):
                raise ValueError(
                    f"{later.name} acts before {earlier.name} (on {later.stage} against {earlier.stage}); "
                    f"list it first: {_swapped(self.compressors, earlier, later)}"
                )
        inside = [compressor.name for compressor in self.compressors if isinstance(compressor, TowerReduction)]
        if len(inside) > 1:
            raise ValueError(f"{inside[0]} and {inside[1]} both act inside the vision tower: keep one of them")
        ragged = None
        for compressor in self.compressors:
            if compressor.needs_full_grid and ragged is not None:
                raise ValueError(
                    f"{compressor.name} needs all tokens of every frame, but {ragged.name}, listed before it, removes "
                    f"some; list it first: {_swapped(self.compressors, ragged, compressor)}"
                )
            if not compressor.leaves_full_grid:
                ragged = compressor

    @property
    def active(self) -> tuple[TokenCompressor, ...]:
        """The compressors that are not switched off by `retention_ratio: 1`."""
        return tuple(compressor for compressor in self.compressors if not compressor.is_off)

    def at(self, stage: type[Stage]) -> tuple[Stage, ...]:
        """The active compressors that act at one stage, in order."""
        return tuple(compressor for compressor in self.active if isinstance(compressor, stage))

    def needs(self) -> frozenset[Evidence]:
        """All evidence that some active compressor looks at, and what it takes to merge before the projector."""
        asked = frozenset().union(*(compressor.needs() for compressor in self.active))
        if any(method.merges_before_projector for method in self.at(GridReduction)):
            asked |= {ProjectorInput()}
        return asked

    def describe(self) -> list[dict[str, dict]]:
        """Names and all hyper-parameters, as a config would spell them."""
        return [{compressor.name: asdict(compressor)} for compressor in self.compressors]


def fingerprint(description: object) -> str:
    """A short, stable hash of anything JSON can hold."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _first_stage(compressor: TokenCompressor) -> int:
    return next(index for index, stage in enumerate(STAGES) if isinstance(compressor, stage))


def _swapped(compressors: tuple[TokenCompressor, ...], earlier: TokenCompressor, later: TokenCompressor) -> str:
    """The list with `later` moved before `earlier`, as a reader would type it."""
    names = [compressor.name for compressor in compressors]
    names.remove(later.name)
    names.insert(names.index(earlier.name), later.name)
    return f"[{', '.join(names)}]"
