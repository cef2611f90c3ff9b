"""Pruning after the LLM's first layers: *An Image is Worth 1/2 Tokens After Layer 2* (FastV, ECCV 2024, 2403.06764)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tokenlab.compressors import (
    Evidence,
    LayerAttention,
    LayerReduction,
    LayerView,
    Moment,
    Preference,
    Reduction,
    Separators,
    State,
    budget,
    scaled_layer,
    top,
)


@dataclass(frozen=True, kw_only=True)
class FastV(LayerReduction, name="fastv"):
    """Keeps, from an early layer of the LLM on, the visual tokens that the prompt's last token attends to most.

    Args:
        layer: At the entry of which of 32 layers tokens go; the attention of the one before ranks them.
    """

    separators: Separators = "keep"
    layer: int = 2
    paper: ClassVar[str] = "arXiv 2403.06764"
    venue: ClassVar[str] = "ECCV 2024"
    licence: ClassVar[str] = "none found"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    attention: ClassVar[Evidence] = LayerAttention()

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Once, at the entry of the layer."""
        return [(scaled_layer(self.layer, 32, num_layers), "before_attention")]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Keeps the top of the whole medium, in its order."""
        scores = view.from_last(self.attention)
        return Reduction.keep(top(scores, budget(self.retention_ratio, view.initial)), scores.shape[0]), state
