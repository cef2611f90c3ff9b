"""Selection: budgets, and which indices have the highest scores."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def budget(ratio: float, total: int) -> int:
    """Counts how many of `total` things a ratio keeps: rounded half to even, at least one.

    >>> budget(0.25, 64), budget(0.1, 3)
    (16, 1)
    """
    return max(1, round(ratio * total))


def evenly_spaced(count: int, total: int) -> Int[Tensor, " count"]:
    """Chooses `count` of `total` indices, evenly spaced: the middle of each of `count` equal parts.

    >>> evenly_spaced(2, 8)
    tensor([2, 6])
    """
    return ((torch.arange(count) * 2 + 1) * total) // (2 * count)


def top(scores: Float[Tensor, "*batch n"], keep: int) -> Int[Tensor, "*batch m"]:
    """Finds the `keep` highest scores of each row, in ascending order of index; ties go to the lowest index.

    >>> top(torch.tensor([0.5, 0.1, 0.9, 0.5]), keep=2)
    tensor([0, 2])
    """
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :keep].sort(dim=-1).values


def top_per_frame(scores: Float[Tensor, " n"], frame: Int[Tensor, " n"], keep: int) -> Int[Tensor, " m"]:
    """Finds the `keep` highest scores of every frame, in ascending order of index; ties go to the lowest index.

    >>> top_per_frame(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([0, 0, 1, 1]), keep=1)
    tensor([1, 2])
    """
    by_score = torch.argsort(scores, descending=True, stable=True)
    order = by_score[torch.argsort(frame[by_score], stable=True)]  # frame by frame, best first
    counts = torch.unique_consecutive(frame[order], return_counts=True)[1]
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.arange(order.shape[0], device=order.device) - first
    return order[rank < keep].sort().values


def coarse_grid(ratio: float, rows: int, columns: int) -> tuple[int, int]:
    """The largest grid of at most `budget(ratio, rows * columns)` cells, as near as possible to the frame's shape.

    >>> coarse_grid(0.25, 8, 8), coarse_grid(0.1, 8, 8)
    ((4, 4), (2, 3))
    """
    limit = budget(ratio, rows * columns)
    shapes = [(h, min(columns, limit // h)) for h in range(1, min(rows, limit) + 1)]

    return max(shapes, key=lambda shape: (shape[0] * shape[1] / _stretch(*shape, rows, columns), -shape[0]))


def _stretch(height: int, width: int, rows: int, columns: int) -> float:
    """How far a grid's shape is from the frame's; 1 where they are the same."""
    ratio = (height * columns) / (width * rows)
    return max(ratio, 1 / ratio)
