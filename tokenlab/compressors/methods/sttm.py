"""Quadtrees over frames: *Multi-Granular Spatio-Temporal Token Merging for Training-Free Acceleration of Video LLMs*.

ICCV 2025 (STTM), arXiv 2507.07990.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenlab.compressors import (
    BudgetUnit,
    LayerReduction,
    LayerView,
    Moment,
    Preference,
    Reduction,
    ReductionKind,
    State,
    components,
    scaled_layer,
    sums,
)


@dataclass(frozen=True, kw_only=True)
class Sttm(LayerReduction, name="sttm"):
    """Merges squares of a frame whose quarters are alike, and then squares that the next frame repeats.

    Args:
        layer: At the entry of which of 28 layers tokens merge.
        threshold: Cosine of a square with each of its quarters from which it is not divided.
        temporal_threshold: Cosine from which squares of successive frames, one within the other, become one token;
            `null`: never.
        root_level: Where trees begin; at level 0 a frame's shorter side has two squares.
        head_dim: Width of the parts of a token whose cosines are averaged; `null`: tokens are compared as a whole.
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    layer: int = 2
    threshold: float = 0.85
    temporal_threshold: float | None = 0.65
    root_level: int = 1
    head_dim: int | None = None
    paper: ClassVar[str] = "arXiv 2507.07990"
    venue: ClassVar[str] = "ICCV 2025"
    licence: ClassVar[str] = "none found"
    prefers: ClassVar[tuple[Preference, ...]] = ("novelty",)
    kind: ClassVar[ReductionKind] = "merge"
    budget_unit: ClassVar[BudgetUnit] = "none"
    has_native_budget: ClassVar[bool] = True
    needs_full_grid: ClassVar[bool] = True

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Once, at the entry of the layer."""
        return [(scaled_layer(self.layer, 28, num_layers), "before_attention")]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Divides every frame into squares, and joins squares over time; a slot's place is its first token's."""
        frames, (_, rows, columns) = view.tokens.as_frames().float(), view.medium.grid
        first, weight, values = self._squares(frames.unflatten(1, (rows, columns)))
        anchor, label = first.unique(return_inverse=True)
        if self.temporal_threshold is None:
            return sums(anchor, label, weight), state
        # Squares of one hierarchy that share a place lie one within the other
        by_frame = label.unflatten(0, frames.shape[:2])
        before, after = by_frame[:-1].flatten(), by_frame[1:].flatten()
        alike = self._likeness(values[anchor[before]], values[anchor[after]]) >= self.temporal_threshold
        group = components(torch.stack([before, after], dim=1)[alike], len(anchor))
        weight = weight / group.bincount(minlength=len(anchor))[group][label]
        smallest, group = group.unique(return_inverse=True)
        return sums(anchor[smallest], group[label], weight), state

    def _squares(
        self, frames: Float[Tensor, "t h w d"]
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, "n d"]]:
        """For each token the first token of its square, its weight there, and the square's value."""
        levels = [Level.of_tokens(frames)]
        while min(levels[0].values.shape[1:3]) > 2:
            levels.insert(0, levels[0].pooled())
        levels = levels[min(self.root_level, len(levels) - 1) :]
        first = torch.arange(frames[..., 0].numel(), device=frames.device).reshape(frames.shape[:3])
        weight, values = torch.ones_like(frames[..., 0]), frames
        is_open = torch.ones_like(levels[0].values[..., 0], dtype=torch.bool)
        for level, finer in pairwise(levels):
            whole = is_open & (self._least_likeness(level, finer) >= self.threshold)
            ends = level.of_each_token(whole)
            first = torch.where(ends, level.of_first_token(first), first)
            weight = torch.where(ends, level.weight[0][:, None] * level.weight[1], weight)
            values = torch.where(ends[..., None], level.of_each_token(level.values), values)
            is_open = (is_open & ~whole)[:, half(finer.values.shape[1])][:, :, half(finer.values.shape[2])]
        return first.flatten(), weight.flatten(), values.flatten(0, 2)

    def _least_likeness(self, level: Level, finer: Level) -> Float[Tensor, "t h w"]:
        """How like each square its least similar quarter is."""
        (_, height, width, _), (frames, rows, columns, _) = level.values.shape, finer.values.shape
        up_row, up_column = half(rows).to(level.values.device), half(columns).to(level.values.device)
        likeness = self._likeness(level.values[:, up_row][:, :, up_column], finer.values)
        square = (up_row[:, None] * width + up_column).flatten().expand(frames, -1)
        least = likeness.new_full((frames, height * width), torch.inf)
        least = least.scatter_reduce(1, square, likeness.flatten(1), "amin").unflatten(1, (height, width))
        # Released code takes the frame's first token for a quarter that an odd side cuts off, and so do we
        is_cut = torch.zeros_like(least[0], dtype=torch.bool)
        is_cut[0] |= rows % 2 == 1
        is_cut[:, 0] |= columns % 2 == 1
        stand_in = self._likeness(level.values, finer.values[:, :1, :1].expand_as(level.values))
        return torch.where(is_cut, torch.minimum(least, stand_in), least)

    def _likeness(self, a: Float[Tensor, "*b d"], b: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        """Their cosine; with `head_dim` the mean of those of their parts."""
        width = self.head_dim or a.shape[-1]
        return cosine_similarity(a.unflatten(-1, (-1, width)), b.unflatten(-1, (-1, width)), dim=-1).mean(dim=-1)


@dataclass(frozen=True)
class Level:
    """Squares of one size in all frames; where a side does not divide evenly, the first ones are smaller.

    Attributes:
        values: The mean of each square's quarters.
        line: Of each row of tokens the row of squares that it lies in, and of each column the column.
        weight: Of each row and each column of tokens its weight in the mean; a token's is their product.
    """

    values: Float[Tensor, "t h w d"]
    line: tuple[Int[Tensor, " rows"], Int[Tensor, " columns"]]
    weight: tuple[Float[Tensor, " rows"], Float[Tensor, " columns"]]

    @classmethod
    def of_tokens(cls, values: Float[Tensor, "t h w d"]) -> Level:
        """The finest."""
        row, column = (torch.arange(side, device=values.device) for side in values.shape[1:3])
        return cls(values, (row, column), (torch.ones_like(row).float(), torch.ones_like(column).float()))

    def pooled(self) -> Level:
        """Squares of twice the side."""
        values, line, weight = self.values, list(self.line), list(self.weight)
        for axis in (1, 2):
            up = half(values.shape[axis]).to(values.device)
            share, shape = 1 / up.bincount()[up], list(values.shape)
            shape[axis] = int(up[-1]) + 1
            shares = share[:, None, None] if axis == 1 else share[:, None]
            values = values.new_zeros(shape).index_add(axis, up, values * shares)
            weight[axis - 1] = weight[axis - 1] * share[line[axis - 1]]
            line[axis - 1] = up[line[axis - 1]]
        return Level(values, (line[0], line[1]), (weight[0], weight[1]))

    def of_each_token(self, squares: Shaped[Tensor, "t h w ..."]) -> Shaped[Tensor, "t rows columns ..."]:
        """What belongs to a square, at each of its tokens."""
        return squares[:, self.line[0]][:, :, self.line[1]]

    def of_first_token(self, tokens: Shaped[Tensor, "t rows columns"]) -> Shaped[Tensor, "t rows columns"]:
        """What belongs to the first token of each token's square."""
        row, column = (torch.searchsorted(line, line) for line in self.line)
        return tokens[:, row][:, :, column]


def half(side: int) -> Int[Tensor, " side"]:
    """Numbers the pairs of a line; where it is odd its first place is alone."""
    return (torch.arange(side) + side % 2) // 2
