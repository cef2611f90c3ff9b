"""Merging inside the vision tower: *Token Merging: Your ViT But Faster* (ToMe, ICLR 2023, 2210.09461)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors import (
    BlockView,
    Preference,
    Reduction,
    ReductionKind,
    State,
    TowerReduction,
    budget,
    in_medium,
    merge_into,
)


@dataclass(frozen=True, kw_only=True)
class ToMe(TowerReduction, name="tome"):
    """Merges the most similar pairs of tokens in every block of the vision tower.

    Args:
        retention_ratio: Patches left after the last block; `null` where `r` says how many go.
        r: The authors' budget: tokens merged in a block, or a list with one number a block.
        inflect: How the merging is spread over the blocks: 0 evenly, -1 all towards the first, 1 towards the last.
    """

    retention_ratio: float | None = None
    r: int | list[int] | None = None
    inflect: float = 0.0
    paper: ClassVar[str] = "arXiv 2210.09461"
    venue: ClassVar[str] = "ICLR 2023"
    licence: ClassVar[str] = "CC-BY-NC-4.0"
    kind: ClassVar[ReductionKind] = "merge"
    has_native_budget: ClassVar[bool] = True
    prefers: ClassVar[tuple[Preference, ...]] = ("diversity",)
    proportional_attention: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses no budget, or two."""
        super().__post_init__()
        if (self.retention_ratio is None) == (self.r is None):
            raise ValueError(f"retention_ratio is {self.retention_ratio} and r is {self.r}: give one of the two")
        if not -1 <= self.inflect <= 1:
            raise ValueError(f"inflect is {self.inflect}, but must be from -1 to 1")

    def reduce_block(self, view: BlockView, state: State) -> tuple[Reduction, State]:
        """Compares tokens by their keys, mean over heads; at most half of what may go can go at once."""
        patches = view.hidden.shape[1] - view.protected
        wanted = patches - self._left_after(view) if self.r is None else self.per_block(view.num_layers)[view.layer]
        merged = max(0, min(wanted, patches // 2))
        return bipartite_merge(view.keys.float().mean(dim=2), view.size, merged, view.protected), state

    def per_block(self, num_layers: int) -> list[int]:
        """How many tokens each block merges: the authors' `r`, in a straight line where `inflect` is not 0."""
        if isinstance(self.r, Sequence):
            return [*self.r, *[0] * num_layers][:num_layers]
        assert self.r is not None
        first = int(self.r * (1 - self.inflect))
        step = (2 * self.r - 2 * first) / max(1, num_layers - 1)
        return [int(first + step * layer) for layer in range(num_layers)]

    def _left_after(self, view: BlockView) -> int:
        """Patches that a block should leave: on the line of `inflect`, but early enough to halve down to the budget."""
        assert self.retention_ratio is not None
        patches = view.patches - view.protected
        target, last = budget(self.retention_ratio, patches), max(1, view.num_layers - 1)
        line = [1 - self.inflect + 2 * self.inflect * layer / last for layer in range(view.num_layers)]
        gone = sum(line[: view.layer + 1]) / sum(line)
        return min(patches - round((patches - target) * gone), target * 2 ** (view.num_layers - 1 - view.layer))


def bipartite_merge(
    keys: Float[Tensor, "t n e"], size: Float[Tensor, "t n"], merged: int, protected: int = 0
) -> Reduction:
    """Merges, in each frame, the `merged` even tokens that are most like some odd token into that one, by size.

    What is left comes in the authors' order, on which the next block's pairs depend: protected tokens, even tokens
    (the most similar first, or in order where there are protected ones), odd tokens.
    """
    frames, tokens = size.shape
    if merged == 0:
        return Reduction.identity(frames * tokens, keys.device)
    position = torch.arange(tokens, device=keys.device)
    even, odd = position[::2], position[1::2]
    keys = normalize(keys, dim=-1)
    similarity = keys[:, even] @ keys[:, odd].mT
    similarity[:, even < protected] = -torch.inf
    similarity[:, :, odd < protected] = -torch.inf
    best, partner = similarity.max(dim=-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    goes, stays = order[:, :merged], order[:, merged:]
    stays = even[stays.sort(dim=-1).values if protected else stays]
    left = torch.cat([stays, odd.expand(frames, -1)], dim=1)
    left = left.gather(1, left.clamp(max=protected).argsort(dim=-1, stable=True))  # protected ones to the front
    return merge_into(
        anchor=in_medium(left, tokens),
        goes=in_medium(even[goes], tokens),
        into=in_medium(odd[partner.gather(1, goes)], tokens),
        size=size.float().flatten(),
    )


def kth_merge(keys: Float[Tensor, "t n e"], size: Float[Tensor, "t n"], k: int) -> Reduction:
    """Merges all tokens but the last of every k into the most similar of those, by size: a variant of released code.

    Released code, which we follow, loses what is left over behind the last whole k.
    """
    frames, tokens = size.shape
    position = torch.arange(tokens // k * k, device=keys.device).unflatten(0, (-1, k))
    into, goes = position[:, -1], position[:, :-1].flatten()
    keys = normalize(keys, dim=-1)
    partner = (keys[:, goes] @ keys[:, into].mT).argmax(dim=-1)
    return merge_into(
        anchor=in_medium(into.expand(frames, -1), tokens),
        goes=in_medium(goes.expand(frames, -1), tokens),
        into=in_medium(into[partner], tokens),
        size=size.float().flatten(),
    )
