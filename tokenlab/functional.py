"""Pure tensor mathematics that two methods or more share."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenlab.tensors import Reduction


def budget(ratio: float, total: int) -> int:
    """How many of `total` things a ratio keeps: rounded half to even, at least one.

    >>> budget(0.25, 64), budget(0.1, 3)
    (16, 1)
    """
    return max(1, round(ratio * total))


def spread(count: int, total: int) -> Int[Tensor, " count"]:
    """`count` of `total` places, evenly spread: the middle of each of `count` equal parts.

    >>> spread(2, 8)
    tensor([2, 6])
    """
    return ((torch.arange(count) * 2 + 1) * total) // (2 * count)


def top(scores: Float[Tensor, "*batch n"], keep: int) -> Int[Tensor, "*batch m"]:
    """Indices of the `keep` highest scores of each row, in ascending order; ties go to the lowest index.

    >>> top(torch.tensor([0.5, 0.1, 0.9, 0.5]), keep=2)
    tensor([0, 2])
    """
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :keep].sort(dim=-1).values


def top_per_frame(scores: Float[Tensor, " n"], frame: Int[Tensor, " n"], keep: int) -> Int[Tensor, " m"]:
    """Indices of the `keep` highest scores of every frame, in ascending order; ties go to the lowest index.

    >>> top_per_frame(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([0, 0, 1, 1]), keep=1)
    tensor([1, 2])
    """
    by_score = torch.argsort(scores, descending=True, stable=True)
    order = by_score[torch.argsort(frame[by_score], stable=True)]  # frame by frame, best first
    counts = torch.unique_consecutive(frame[order], return_counts=True)[1]
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.arange(order.shape[0], device=order.device) - first
    return order[rank < keep].sort().values


def segment_starts(step_scores: Float[Tensor, " steps"], segments: int) -> Int[Tensor, " segments"]:
    """Cuts T frames into segments before the highest of the T-1 step scores; returns each segment's first frame.

    >>> segment_starts(torch.tensor([0.1, 0.9, 0.2]), segments=2)
    tensor([0, 2])
    """
    cuts = torch.argsort(step_scores, descending=True, stable=True)[: segments - 1] + 1
    return torch.cat([cuts.new_zeros(1), cuts.sort().values])


def mean_segments(starts: Int[Tensor, " k"], frames: int, tokens: int) -> Reduction:
    """Averages each segment's frames position by position into one frame, anchored at the segment's first frame.

    A segment of one frame is left as it is.
    """
    device = starts.device
    lengths = torch.diff(starts, append=starts.new_tensor([frames]))
    segment = torch.arange(starts.shape[0], device=device).repeat_interleave(lengths)  # of each frame
    position = torch.arange(tokens, device=device)
    anchor = (starts[:, None] * tokens + position).flatten()
    merged = (lengths > 1)[segment].nonzero().flatten()  # frames that share their segment
    member = (merged[:, None] * tokens + position).flatten()
    slot = (segment[merged][:, None] * tokens + position).flatten()
    weight = (1.0 / lengths[segment[merged]]).repeat_interleave(tokens)
    return Reduction.merge(anchor, slot, member, weight, frames * tokens)


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
