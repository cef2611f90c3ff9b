"""Duplication: *Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More* (DART).

EMNLP 2025, arXiv 2502.11494.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import normalize

from tokenlab.compressors import (
    Evidence,
    LayerAttention,
    LayerReduction,
    LayerView,
    Moment,
    NormedHidden,
    Preference,
    Reduction,
    Separators,
    State,
    scaled_layer,
)


@dataclass(frozen=True, kw_only=True)
class Dart(LayerReduction, name="dart"):
    """Keeps a few pivots with large keys, and for each of them the visual tokens that are least like it.

    Args:
        retention_ratio: Shared by all pivots, rounded down for each; the visual pivots come on top.
        layer: At the entry of which of 32 layers tokens go.
        tokens: The authors' budget, where `retention_ratio` is `null`, shared in the same way.
        visual_pivots: Pivots among the medium's tokens.
        text_pivots: Pivots in the text behind the last medium, which has at least so many tokens.
    """

    retention_ratio: float | None = None
    separators: Separators = "keep"
    layer: int = 2
    tokens: int = 128
    visual_pivots: int = 4
    text_pivots: int = 4
    paper: ClassVar[str] = "arXiv 2502.11494"
    venue: ClassVar[str] = "EMNLP 2025"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("diversity",)
    has_native_budget: ClassVar[bool] = True
    attention: ClassVar[Evidence] = LayerAttention()
    normed: ClassVar[Evidence] = NormedHidden()

    def __post_init__(self) -> None:
        """Refuses no pivots."""
        super().__post_init__()
        self.check_counts("tokens", "visual_pivots")

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """The visual pivots, and as many tokens for each pivot."""
        total, pivots = sum(frame_sizes), self.visual_pivots + self.text_pivots
        return total if self.is_off else min(total, self.visual_pivots + pivots * self._per_pivot(total))

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Once, at the entry of the layer."""
        return [(scaled_layer(self.layer, 32, num_layers), "before_attention")]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Pivot by pivot, the least similar of the tokens that none before it took."""
        total = len(view.visual)
        size = view.evidence[self.attention].keys.float().abs().sum(dim=(0, 2))
        visual = view.visual[size[view.visual].topk(min(self.visual_pivots, total)).indices]
        text = view.question[size[view.question].topk(min(self.text_pivots, len(view.question))).indices]
        unit = normalize(view.evidence[self.normed].float(), dim=-1)
        taken = torch.isin(view.visual, visual)
        # Released code visits pivots in the order of a Python set of their places in the sequence
        for pivot in set(visual.tolist() + text.tolist()):
            likeness = (unit[view.visual] @ unit[pivot]).masked_fill(taken, torch.inf)
            count = min(self._per_pivot(view.initial), total - int(taken.sum()))
            taken[likeness.topk(count, largest=False).indices] = True
        return Reduction.keep(taken.nonzero()[:, 0], total), state

    def _per_pivot(self, total: int) -> int:
        shared = self.tokens if self.retention_ratio is None else self.retention_ratio * total
        return int(shared / (self.visual_pivots + self.text_pivots))
