"""Merging: reductions out of who is merged with whom; a method says that, and no more."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenlab.reduction import Reduction


def means(anchor: Int[Tensor, " m"], label: Int[Tensor, " n"]) -> Reduction:
    """Averages the tokens of each slot; a slot of one token leaves it as it is.

    Args:
        anchor: Whose place each slot takes.
        label: The slot of each token.

    >>> means(torch.tensor([0, 2]), torch.tensor([0, 0, 1])).apply(torch.tensor([1.0, 3.0, 5.0]))
    tensor([2., 5.])
    """
    return sums(anchor, label, 1.0 / label.bincount(minlength=anchor.shape[0])[label])


def sums(anchor: Int[Tensor, " m"], label: Int[Tensor, " n"], weight: Float[Tensor, " n"]) -> Reduction:
    """Sums the tokens of each slot by weight; a slot of one token leaves it as it is.

    Args:
        anchor: Whose place each slot takes.
        label: The slot of each token.
        weight: Of each token.

    >>> weight = torch.tensor([0.25, 0.75, 1.0])
    >>> sums(torch.tensor([0, 2]), torch.tensor([0, 0, 1]), weight).apply(torch.tensor([4.0, 8.0, 5.0]))
    tensor([7., 5.])
    """
    shared = label.bincount(minlength=anchor.shape[0])[label] > 1
    return Reduction.merge(anchor, label[shared], shared.nonzero()[:, 0], weight[shared], label.shape[0])


def blend(
    anchor: Int[Tensor, " m"],
    slot: Int[Tensor, " k"],
    member: Int[Tensor, " k"],
    own: float | Float[Tensor, " m"],
    others: float | Float[Tensor, " m"],
    num_inputs: int,
) -> Reduction:
    """Mixes each slot's anchor with the mean of the tokens assigned to it.

    Args:
        anchor: Each slot's own token.
        slot: To which slot each further token is assigned.
        member: These tokens.
        own: Weight of the anchor, or of each.
        others: Weight of the mean, or of each.
        num_inputs: All tokens.

    >>> mixed = blend(torch.tensor([0]), torch.tensor([0, 0]), torch.tensor([1, 2]), 1.0, 0.5, num_inputs=3)
    >>> mixed.apply(torch.tensor([1.0, 2.0, 4.0]))
    tensor([2.5000])
    """
    slots = torch.arange(anchor.shape[0], device=anchor.device)
    assigned = slot.bincount(minlength=anchor.shape[0])[slot]
    one = torch.ones_like(anchor, dtype=torch.float32)
    weight = torch.cat([one * own, (one * others)[slot] / assigned])
    return Reduction.merge(anchor, torch.cat([slots, slot]), torch.cat([anchor, member]), weight, num_inputs)


def merge_into(
    anchor: Int[Tensor, " m"],
    goes: Int[Tensor, " k"],
    into: Int[Tensor, " k"],
    size: Float[Tensor, " n"],
) -> Reduction:
    """Merges tokens into others, each weighted by how much it stands for already.

    Args:
        anchor: The tokens that are left, in the order of the slots.
        goes: The tokens that are merged.
        into: For each of them, the token that takes it in.
        size: How much each token stands for.

    >>> grown = merge_into(torch.tensor([1]), torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0, 3.0]))
    >>> grown.apply(torch.tensor([4.0, 8.0]))
    tensor([7.])
    """
    slot_of = torch.empty_like(size, dtype=torch.long)
    slot_of[anchor] = torch.arange(anchor.shape[0], device=anchor.device)
    grows = into.unique()
    member, slot = torch.cat([grows, goes]), slot_of[torch.cat([grows, into])]
    total = size.new_zeros(anchor.shape[0]).index_add(0, slot, size[member])
    return Reduction.merge(anchor, slot, member, size[member] / total[slot], size.shape[0])


def mean_runs(order: Int[Tensor, " n"], joins: Bool[Tensor, " n"]) -> Reduction:
    """Averages every run of joining tokens with the token before it, whose place the mean takes.

    Args:
        order: All tokens, in the order in which runs are looked for.
        joins: Which of them, in that order, join the token before.

    >>> mean_runs(torch.tensor([1, 0, 2]), torch.tensor([False, True, False])).apply(torch.tensor([2.0, 4.0, 7.0]))
    tensor([3., 7.])
    """
    anchor, rank = order[~joins].sort()
    slot = rank.argsort()[(~joins).cumsum(0) - 1]  # of each token in `order`
    lengths = slot.bincount(minlength=anchor.shape[0])[slot]
    shared = lengths > 1
    return Reduction.merge(anchor, slot[shared], order[shared], 1 / lengths[shared].float(), order.shape[0])


def with_mean_of_rest(kept: Bool[Tensor, "t n"]) -> Reduction:
    """Keeps some tokens of each frame, and behind them the mean of its others, if there are any.

    The mean takes the place of the last token that it stands for.

    >>> with_mean_of_rest(torch.tensor([[False, True, False]])).apply(torch.tensor([1.0, 5.0, 3.0]))
    tensor([5., 2.])
    """
    tokens = kept.shape[1]
    rest = (~kept).sum(dim=1)
    member = (~kept).flatten().nonzero()[:, 0]
    frame = member // tokens
    last = torch.where(kept, -1, torch.arange(tokens, device=kept.device)).amax(dim=1)
    has_rest = rest > 0
    means_at = last[has_rest] + has_rest.nonzero()[:, 0] * tokens
    single = Reduction.keep(kept.flatten().nonzero()[:, 0], kept.numel())
    slot = has_rest.cumsum(0)[frame] - 1
    summed = Reduction.merge(means_at, slot, member, 1 / rest[frame].float(), kept.numel())
    return frame_by_frame(Reduction.cat([(single, None), (summed, None)], kept.numel()), tokens)


def frame_by_frame(reduction: Reduction, tokens: int) -> Reduction:
    """Puts the slots in the order of their frames of so many tokens, within which they keep theirs.

    >>> frame_by_frame(Reduction.keep(torch.tensor([3, 1, 0]), num_inputs=4), tokens=2).anchor
    tensor([1, 0, 3])
    """
    return reduction.reorder((reduction.anchor // tokens).argsort(stable=True))
