"""Merging and pruning in the LLM: *FrameFusion: Combining Similarity and Importance* (ICCV 2025, 2501.01986)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenlab.compressors import (
    Evidence,
    LayerAttention,
    LayerReduction,
    LayerView,
    Moment,
    Preference,
    Reduction,
    ReductionKind,
    Separators,
    State,
    budget,
    mean_runs,
    share_to_go,
    top,
)


@dataclass(frozen=True)
class Progress:
    """What one call tells the next.

    Attributes:
        phase: What comes next; merging goes on until too few tokens are alike, then one pruning follows.
        spent: Layers read so far, each counted by the share of tokens that was left in it.
    """

    phase: Literal["merge", "prune", "done"] = "merge"
    spent: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FrameFusion(LayerReduction, name="framefusion"):
    """Merges patches that repeat those of the frame before, layer by layer, then prunes by attention.

    Args:
        retention_ratio: Tokens left after the last cut. `null` leaves the budget to `cost`; where all is merged before
            the first layer the two are the same, otherwise more is cut later so that the mean over layers is `cost`.
        cost: The authors' budget: the share of tokens that the layers read on average.
        similarity_lower_bound: Cosine from which two patches are alike.
        ratio_lower_bound: Merging ends with the first call that merges less than this share.
    """

    retention_ratio: float | None = None
    separators: Separators = "keep"
    cost: float = 0.3
    similarity_lower_bound: float = 0.6
    ratio_lower_bound: float = 0.1
    paper: ClassVar[str] = "arXiv 2501.01986"
    venue: ClassVar[str] = "ICCV 2025"
    licence: ClassVar[str] = "MIT"
    prefers: ClassVar[tuple[Preference, ...]] = ("novelty", "attention")
    kind: ClassVar[ReductionKind] = "both"
    has_native_budget: ClassVar[bool] = True
    attention: ClassVar[Evidence] = LayerAttention()

    def __post_init__(self) -> None:
        """Refuses an impossible cost."""
        super().__post_init__()
        self.check_shares("cost")

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Before the first layer and in every layer but the last, where nothing would be saved any more."""
        return [
            (0, "before_attention"),
            *((layer, "after_attention") for layer in range(max(1, num_layers - 1))),
        ]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, Progress]:
        """One call: merge, prune, or nothing any more."""
        progress = state or Progress()
        tokens = view.visual.shape[0]
        if progress.phase == "done":
            return Reduction.identity(tokens, view.visual.device), progress
        excess = self._excess(view, progress)
        is_last = (view.layer, view.moment) == self.points(view.num_layers)[-1]
        if progress.phase == "prune" or is_last:
            attention = view.from_last(self.attention)
            return Reduction.keep(top(attention, max(1, round(tokens - excess))), tokens), Progress("done")
        order, similarity = repeats(view.tokens.values.float(), view.tokens.places)
        merged = similarity >= self.similarity_lower_bound
        count = int(merged.sum())
        if count >= excess:  # enough are alike: the most similar ones make the budget, and nothing else is cut
            merged = torch.zeros_like(merged)
            merged[top(similarity, int(excess))] = True
            return mean_runs(order, merged), Progress("done")
        phase = "prune" if count / tokens < self.ratio_lower_bound else "merge"
        return mean_runs(order, merged), Progress(phase, progress.spent + (tokens - count) / view.initial)

    def _excess(self, view: LayerView, progress: Progress) -> float:
        """How many of the tokens here are too many, if nothing is cut after this call."""
        tokens = view.visual.shape[0]
        if self.retention_ratio is not None:
            return float(max(0, tokens - budget(self.retention_ratio, view.initial)))
        # Released code is written for 28 layers, and raises an error where merging spent more than the whole cost; we
        # take the model's own depth, and leave one token
        layers_left = view.num_layers - (0 if view.moment == "before_attention" else view.layer + 1)
        share = tokens / view.initial
        return tokens * (1 - share_to_go(self.cost, progress.spent, share, view.num_layers, layers_left))


def repeats(hidden: Float[Tensor, "n d"], places: Int[Tensor, "n 3"]) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Tokens ordered by patch and then by time, and each one's cosine with the token before it of the same patch.

    It is minus infinity for a patch's first token, which has none before it.
    """
    frame, row, column = places.unbind(dim=-1)
    patch = row * (column.max() + 1) + column
    order = torch.argsort(patch * (frame.max() + 1) + frame, stable=True)
    hidden, patch = hidden[order], patch[order]
    cosine = cosine_similarity(hidden[1:], hidden[:-1], dim=-1).masked_fill(patch[1:] != patch[:-1], -torch.inf)
    return order, torch.cat([cosine.new_full((1,), -torch.inf), cosine])
