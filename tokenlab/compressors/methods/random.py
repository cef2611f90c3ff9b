"""Random pruning, the control every method must beat, wherever that one acts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenlab.compressors import (
    BudgetUnit,
    CacheReduction,
    CacheView,
    FramesView,
    FrameWise,
    GridReduction,
    LayerReduction,
    LayerView,
    Moment,
    Reduction,
    State,
    TokenCompressor,
    budget,
    scaled_layer,
    top,
)


@dataclass(frozen=True, kw_only=True)
class Random(FrameWise, LayerReduction, CacheReduction, name="random"):
    """Keeps tokens chosen by lot: of each frame, of a medium inside the LLM, or of what a decode step sees of it.

    Args:
        at: The stage: on the token `grid`, between `layers` of the LLM, or on its `cache`.
        layer: Inside the LLM, at the entry of which of 32 layers.
        draw: Which lot: arms of other numbers are drawn independently.
    """

    at: Literal["grid", "layers", "cache"] = "grid"
    layer: int = 2
    draw: int = 0
    budget_unit: ClassVar[BudgetUnit] = "frame"

    def __post_init__(self) -> None:
        """Refuses a lot before the first."""
        super().__post_init__()
        if self.draw < 0:
            raise ValueError(f"draw is {self.draw}, but must be at least 0")

    def acts_at(self, stage: type[TokenCompressor]) -> bool:
        """At one of its stages alone."""
        return stage is {"grid": GridReduction, "layers": LayerReduction, "cache": CacheReduction}[self.at]

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """Of each frame, or inside the LLM of all of them; what steps see is no retention."""
        total = sum(frame_sizes)
        if self.at == "layers" and not self.is_off:
            return budget(self.retention_ratio, total)
        return super().kept(frame_sizes) if self.at == "grid" else total

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Draws a score for every token; a smaller budget keeps a subset of a larger one's choice."""
        scores = self._scores(*view.values.shape[:2], generator=view.generator)
        return view.keep(top(scores.to(view.values.device), view.budget))

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Once, at the entry of the layer."""
        return [(scaled_layer(self.layer, 32, num_layers), "before_attention")]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """The same lot, over the whole medium."""
        return self._drawn(view.visual, budget(self.retention_ratio, view.initial), view.generator), state

    def cache_layers(self, num_layers: int) -> Sequence[int]:
        """One layer; those above it see the same tokens."""
        return [scaled_layer(self.layer, 32, num_layers)]

    def reduce_cache(self, view: CacheView, state: State) -> tuple[Reduction, State]:
        """Others in each step."""
        return self._drawn(view.visual, budget(self.retention_ratio, len(view.visual)), view.generator), state

    def _drawn(self, visual: Int[Tensor, " n"], count: int, generator: torch.Generator) -> Reduction:
        scores = self._scores(len(visual), generator=generator).to(visual.device)
        return Reduction.keep(top(scores, count), len(visual))

    def _scores(self, *shape: int, generator: torch.Generator) -> Float[Tensor, "..."]:
        return torch.rand(self.draw + 1, *shape, generator=generator)[-1]
