"""Methods that keep every token, but through the full path: what is right with them is right with any method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from tokenlab.compressors import Pipeline
from tokenlab.compressors.base import State
from tokenlab.compressors.evidence import LayerAttention, NormedHidden, StepAttention
from tokenlab.compressors.stages import (
    BlockView,
    CacheReduction,
    CacheView,
    GridReduction,
    GridView,
    LayerReduction,
    LayerView,
    Moment,
    TowerReduction,
)
from tokenlab.reduction import Reduction
from tokenlab.tokens import Evidence

MOMENTS: tuple[Moment, ...] = ("before_attention", "after_attention")


SEEN_INSIDE = (LayerAttention(), LayerAttention(rotary=False), LayerAttention(layer="next"), NormedHidden())


def keep_all(tokens: int) -> Reduction:
    """Keeps everything in its place, as a decision that does not know it."""
    return Reduction.keep(torch.arange(tokens), tokens)


@dataclass(frozen=True, kw_only=True)
class KeepAll(GridReduction):
    """Keeps every token on the grid."""

    name: ClassVar[str] = "keep_all"
    leaves_full_grid: ClassVar[bool] = True
    has_native_budget: ClassVar[bool] = True
    retention_ratio: float | None = None

    def reduce_grid(self, view: GridView) -> Reduction:
        """All of them."""
        return keep_all(view.tokens.num_tokens)


@dataclass(frozen=True, kw_only=True)
class KeepAllInside(LayerReduction, CacheReduction):
    """Keeps every token at every point of the LLM and in every step, attention rows included."""

    name: ClassVar[str] = "keep_all_inside"
    has_native_budget: ClassVar[bool] = True
    retention_ratio: float | None = None

    def needs(self) -> frozenset[Evidence]:
        """All that can be seen of the LLM."""
        return frozenset({*SEEN_INSIDE, StepAttention()})

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Everywhere."""
        return [(layer, moment) for layer in range(num_layers) for moment in MOMENTS]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """All of them."""
        assert view.evidence[NormedHidden()].shape == view.hidden.shape
        entry = view.moment == "before_attention"
        assert (LayerAttention() in view.evidence) == (view.layer > 0 or not entry)
        assert (LayerAttention(layer="next") in view.evidence) == entry
        return keep_all(view.visual.shape[0]), state

    def cache_layers(self, num_layers: int) -> Sequence[int]:
        """All layers."""
        return range(num_layers)

    def reduce_cache(self, view: CacheView, state: State) -> tuple[Reduction, State]:
        """All of them."""
        return keep_all(view.visual.shape[0]), state


@dataclass(frozen=True, kw_only=True)
class KeepAllInTower(TowerReduction):
    """Keeps every token in every block of the tower."""

    name: ClassVar[str] = "keep_all_in_tower"
    has_native_budget: ClassVar[bool] = True
    retention_ratio: float | None = None
    proportional_attention: ClassVar[bool] = True

    def reduce_block(self, view: BlockView, state: State) -> tuple[Reduction, State]:
        """All of them."""
        return keep_all(view.size.numel()), state


KEEPING = {
    "tower": Pipeline((KeepAllInTower(),)),
    "tower, renumbered": Pipeline((KeepAllInTower(positions="renumber"),)),
    "grid": Pipeline((KeepAll(),)),
    "grid, renumbered": Pipeline((KeepAll(positions="renumber"),)),
    "layers and cache": Pipeline((KeepAllInside(),)),
    "layers and cache, renumbered": Pipeline((KeepAllInside(positions="renumber"),)),
}
"""By where in the model they keep everything."""
