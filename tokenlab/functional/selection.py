"""Selection: budgets, and which indices have the highest scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

RANK_TOLERANCE = 1e-7
"""Of the largest gain: what is less is rounding."""


def budget(ratio: float, total: int) -> int:
    """Counts how many of `total` things a ratio keeps: rounded half to even, at least one.

    >>> budget(0.25, 64), budget(0.1, 3)
    (16, 1)
    """
    return max(1, round(ratio * total))


def frame_budgets(ratio: float, sizes: Sequence[int]) -> list[int]:
    """Counts how many tokens of each frame a ratio keeps; at least one.

    Frames of one size keep the same number each, as published methods count. Frames of several sizes, such as an image
    and its mosaic of tiles, share the budget of the medium: each its part rounded down, the rest by the largest
    remainders.

    >>> frame_budgets(0.1, [36, 36]), frame_budgets(0.1, [36, 48])
    ([4, 4], [3, 5])
    """
    if len(set(sizes)) <= 1:
        return [budget(ratio, size) for size in sizes]
    shares = [max(1.0, ratio * size) for size in sizes]
    counts = [int(share) for share in shares]
    missing = max(0, budget(ratio, sum(sizes)) - sum(counts))
    by_remainder = sorted(range(len(sizes)), key=lambda frame: counts[frame] - shares[frame])
    for frame in by_remainder[:missing]:
        counts[frame] += 1
    return counts


def share_to_go(cost: float, spent: float, share: float, num_layers: int, layers_left: int) -> float:
    """Computes which share of the tokens that are left may stay, so that layers read a given share on average.

    Args:
        cost: The share of all tokens that the layers may read on average.
        spent: What the layers so far have read, each counted by its share.
        share: The share that is left now.
        num_layers: Layers of the model.
        layers_left: Those that are still to read.

    >>> share_to_go(cost=0.5, spent=2.0, share=1.0, num_layers=8, layers_left=4)
    0.5
    """
    return min(1.0, max(0.0, (num_layers * cost - spent) / (max(1, layers_left) * share)))


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


def top_per_frame(
    scores: Float[Tensor, " n"], frame: Int[Tensor, " n"], keep: int | Int[Tensor, " t"]
) -> Int[Tensor, " m"]:
    """Finds the `keep` highest scores of every frame, in ascending order of index; ties go to the lowest index.

    Args:
        scores: Of each token.
        frame: Of each token.
        keep: How many of every frame, or of each by its number.

    >>> top_per_frame(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([0, 0, 1, 1]), keep=1)
    tensor([1, 2])
    """
    rank = rank_within(scores, frame, descending=True)
    return (rank < (keep if isinstance(keep, int) else keep[frame])).nonzero()[:, 0]


def rank_within(scores: Float[Tensor, " n"], group: Int[Tensor, " n"], descending: bool = False) -> Int[Tensor, " n"]:
    """Ranks every score among those of its group, from 0; of equal ones the lowest index is first.

    >>> rank_within(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0, 1, 0]))
    tensor([1, 0, 0])
    """
    by_score = scores.argsort(descending=descending, stable=True)
    order = by_score[group[by_score].argsort(stable=True)]  # group by group
    counts = group[order].unique_consecutive(return_counts=True)[1]
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(order.shape[0], device=order.device) - first
    return rank


def rest_of(index: Int[Tensor, " k"], total: int) -> Int[Tensor, " r"]:
    """Finds the indices below `total` that are not among some.

    >>> rest_of(torch.tensor([2, 0]), total=4)
    tensor([1, 3])
    """
    is_rest = torch.ones(total, dtype=torch.bool, device=index.device).index_fill(0, index, False)
    return is_rest.nonzero()[:, 0]


def cells(count: int, rows: int, columns: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " count"]]:
    """Divides a frame into so many cells, as near to squares as rows and columns allow.

    Rows form strips of equal height, and each strip is divided evenly; where the count cannot be divided so, some
    strips have a cell more than others.

    Returns:
        The cell of each token, and each cell's middle token.

    >>> label, middle = cells(2, rows=2, columns=4)
    >>> label.tolist(), middle.tolist()
    ([0, 0, 1, 1, 0, 0, 1, 1], [5, 7])
    """
    fewest, most = -(-count // columns), min(rows, count)
    strips = min(max(fewest, round((count * rows / columns) ** 0.5)), most)
    bounds = torch.arange(strips + 1) * count // strips  # cells before each strip
    in_strip = bounds.diff()
    strip = torch.arange(rows) * strips // rows
    label = bounds[strip][:, None] + torch.arange(columns) * in_strip[strip][:, None] // columns
    owner = torch.arange(strips).repeat_interleave(in_strip)
    row = _middle(owner, strips, rows)
    column = _middle(torch.arange(count) - bounds[owner], in_strip[owner], columns)
    return label.flatten(), row * columns + column


def _middle(part: Int[Tensor, " k"], parts: int | Int[Tensor, " k"], length: int) -> Int[Tensor, " k"]:
    """The middle of one of so many parts of a line."""
    start, stop = -(-part * length // parts), -(-(part + 1) * length // parts)
    return (start + stop) // 2


def max_min(unit: Float[Tensor, "n d"], count: int, rows: int = 1024) -> Int[Tensor, " count"]:
    """Chooses tokens one by one, each as far as can be from those before it; distance is 1 - cosine.

    The first is the one whose nearest neighbour is farthest. Memory grows with the tokens, not with their pairs.

    Args:
        unit: Tokens of length 1.
        count: How many are chosen.
        rows: Tokens that are compared with all others at a time, for the first.

    Returns:
        The chosen tokens, in ascending order.

    >>> max_min(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), 2)
    tensor([0, 2])
    """
    second = min(2, len(unit))
    nearest = torch.cat(
        [(1 - part @ unit.mT).topk(second, dim=1, largest=False).values[:, -1] for part in unit.split(rows)]
    )
    chosen = [nearest.argmax()]
    distance = torch.full_like(nearest, torch.inf)
    for _ in range(count - 1):
        distance = torch.minimum(distance, 1 - unit @ unit[chosen[-1]])
        distance[chosen[-1]] = -torch.inf
        chosen.append(distance.argmax())
    return torch.stack(chosen).sort().values


def farthest_first(distance: Float[Tensor, "*b n n"], count: int) -> Int[Tensor, "*b count"]:
    """Chooses one by one what is farthest from all that was chosen; the first is what has its neighbour farthest off.

    Args:
        distance: From each (row) to each that may be chosen (column); need not be symmetric.
        count: How many are chosen.

    Returns:
        What was chosen, in that order.

    >>> farthest_first(torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 4.0], [5.0, 4.0, 0.0]]), 2)
    tensor([2, 0])
    """
    neighbour = distance.topk(min(2, distance.shape[-1]), dim=-2, largest=False).values[..., -1, :]
    chosen, nearest = [neighbour.argmax(dim=-1, keepdim=True)], torch.full_like(neighbour, torch.inf)
    for _ in range(count - 1):
        row = distance.gather(-2, chosen[-1][..., None].expand(*chosen[-1].shape, distance.shape[-1]))[..., 0, :]
        nearest = torch.minimum(nearest, row).scatter(-1, chosen[-1], -torch.inf)
        chosen.append(nearest.argmax(dim=-1, keepdim=True))
    return torch.cat(chosen, dim=-1)


def greedy_dpp(factors: Float[Tensor, "*b n d"], count: int) -> Int[Tensor, "*b count"]:
    """Chooses tokens one by one for the largest determinant of their kernel, the products of their factors.

    Fast greedy inference of a determinantal point process (1709.05135): memory grows with count x n, never n x n. Where
    the kernel's rank is used up, the others follow by what rounding left of them.

    Returns:
        The chosen tokens, in the order in which they were chosen.

    >>> greedy_dpp(torch.tensor([[2.0, 0.0], [1.9, 0.0], [0.0, 1.0]]), 2)
    tensor([0, 2])
    """
    gain = factors.square().sum(dim=-1)
    rows = factors.new_zeros(*gain.shape[:-1], count, gain.shape[-1])
    least = (gain.amax(dim=-1, keepdim=True) * RANK_TOLERANCE).clamp(min=torch.finfo(gain.dtype).tiny)
    chosen = []
    for step in range(count):
        best = gain.argmax(dim=-1, keepdim=True)
        chosen.append(best)
        factor = factors.gather(-2, best[..., None].expand(*best.shape, factors.shape[-1]))
        before = rows[..., :step, :]
        at_best = before.gather(-1, best[..., None, :].expand(*before.shape[:-1], 1))
        row = (factors @ factor.mT)[..., 0] - (at_best.mT @ before)[..., 0, :]
        left = gain.gather(-1, best)
        row = torch.where(left > least, row / torch.maximum(left, least).sqrt(), 0.0)
        rows[..., step, :] = row
        gain = (gain - row.square()).scatter(-1, best, -torch.inf)
    return torch.cat(chosen, dim=-1)


def outliers(scores: Float[Tensor, " n"]) -> float:
    """Computes the share of scores that lie more than 1.5 interquartile ranges above the third quartile.

    >>> outliers(torch.tensor([1.0, 1.0, 1.0, 9.0]))
    0.25
    """
    ordered = scores.float().sort().values
    places = torch.tensor([0.25, 0.75], device=scores.device) * (len(ordered) - 1)
    below, above = ordered[places.floor().long()], ordered[places.ceil().long()]
    first, third = (below + (above - below) * places.frac()).tolist()
    return int((scores > third + 1.5 * (third - first)).sum()) / len(scores)
