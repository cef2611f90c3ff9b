"""The algebra of reductions: which tokens stay, which are merged, and how decisions compose and apply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import embedding_bag

Combine = Literal["weights", "mean", "sum"]
"""How values of merged tokens become one: by the reduction's own weights, their mean, or their sum."""


@dataclass(frozen=True)
class Reduction:
    """m output slots over n input tokens, stored sparsely: memory grows with what is merged, never with m x n.

    A slot takes the place (position id, grid place, separator run) of its `anchor`. A slot with members is the weighted
    sum of exactly those members (the anchor counts only if it is listed; weights need not be convex); a slot without
    members is its anchor's own value, untouched. Anchors of untouched slots are unique; those of merged slots may
    repeat.

    Attributes:
        num_inputs: Input tokens, n.
        anchor: Each slot's source token.
        lengths: How many members each slot has; 0: the anchor's own value.
        member: The slots' members, one slot after the other.
        weight: Each member's weight.
        tag: A label for each slot that travels to later stages.
        is_identity: Whether every token stays, untouched, in its place; known when made, never asked of the device.
    """

    num_inputs: int
    anchor: Int[Tensor, " m"]
    lengths: Int[Tensor, " m"]
    member: Int[Tensor, " k"]
    weight: Float[Tensor, " k"]
    tag: Int[Tensor, " m"] | None = None
    is_identity: bool = False

    @classmethod
    def keep(cls, index: Int[Tensor, " m"], num_inputs: int, tag: Int[Tensor, " m"] | None = None) -> Reduction:
        """Prunes to the tokens of `index`, in that order.

        >>> Reduction.keep(torch.tensor([0, 2]), num_inputs=3).apply(torch.tensor([[1.0], [2.0], [3.0]])).flatten()
        tensor([1., 3.])
        """
        empty = index.new_empty(0)
        return cls(num_inputs, index, torch.zeros_like(index), empty, empty.float(), tag)

    @classmethod
    def identity(cls, num_inputs: int, device: torch.device | str = "cpu") -> Reduction:
        """Keeps every token in its place; applying it and composing with it cost nothing."""
        return replace(cls.keep(torch.arange(num_inputs, device=device), num_inputs), is_identity=True)

    @classmethod
    def merge(
        cls,
        anchor: Int[Tensor, " m"],
        slot: Int[Tensor, " k"],
        member: Int[Tensor, " k"],
        weight: Float[Tensor, " k"],
        num_inputs: int,
        tag: Int[Tensor, " m"] | None = None,
    ) -> Reduction:
        """Merges: entry j adds `weight[j]` times token `member[j]` to slot `slot[j]`, entries in any order.

        >>> slot, member = torch.tensor([0, 0]), torch.tensor([0, 1])
        >>> mean = Reduction.merge(torch.tensor([0]), slot, member, torch.full((2,), 0.5), num_inputs=2)
        >>> mean.apply(torch.tensor([[1.0], [3.0]]))
        tensor([[2.]])
        """
        order = torch.argsort(slot, stable=True)
        lengths = torch.bincount(slot, minlength=anchor.shape[0])
        return cls(num_inputs, anchor, lengths, member[order], weight[order], tag)

    @classmethod
    def cat(cls, parts: Sequence[tuple[Reduction, Int[Tensor, " _"] | None]], num_inputs: int) -> Reduction:
        """Puts reductions of subsets of the tokens together, the slots of one part after those of another.

        Args:
            parts: Reductions, each with the indices of the tokens that it was decided on; None: all of them.
            num_inputs: All tokens, n; those in no part go.

        >>> last, first = Reduction.keep(torch.tensor([1]), 2), Reduction.identity(2)
        >>> Reduction.cat([(last, torch.tensor([2, 3])), (first, torch.tensor([0, 1]))], num_inputs=4).anchor
        tensor([3, 0, 1])
        """
        tags = [part.tag for part, _ in parts if part.tag is not None]
        if tags and len(tags) != len(parts):
            raise ValueError(f"{len(tags)} of {len(parts)} reductions are tagged: tag all of them or none")
        return cls(
            num_inputs,
            torch.cat([part.anchor if index is None else index[part.anchor] for part, index in parts]),
            torch.cat([part.lengths for part, _ in parts]),
            torch.cat([part.member if index is None else index[part.member] for part, index in parts]),
            torch.cat([part.weight for part, _ in parts]),
            torch.cat(tags) if tags else None,
        )

    @property
    def num_outputs(self) -> int:
        """The number of slots, m."""
        return self.anchor.shape[0]

    @property
    def merges(self) -> bool:
        """Whether any slot has members."""
        return self.member.shape[0] > 0

    @cached_property
    def num_merged(self) -> int:
        """How many slots are weighted sums."""
        return int((self.lengths > 0).sum()) if self.merges else 0

    def check(self) -> Reduction:
        """Returns itself, or raises ValueError where it breaks the algebra's rules."""
        if self.is_identity:
            return self
        sources = torch.cat([self.anchor, self.member])
        if sources.numel() and (sources.min() < 0 or sources.max() >= self.num_inputs):
            wrong = int(sources.min() if sources.min() < 0 else sources.max())
            raise ValueError(f"a reduction of {self.num_inputs} tokens names token {wrong}")
        if int(self.lengths.sum()) != self.member.shape[0] or self.member.shape != self.weight.shape:
            raise ValueError("a reduction's lengths, members and weights do not fit together")
        if not self.weight.isfinite().all():
            raise ValueError("a reduction merges with a weight that is not finite")
        pruned = self.anchor[self.lengths == 0]
        if pruned.unique().shape[0] != pruned.shape[0]:
            raise ValueError("a reduction keeps the same token twice")
        return self

    def settle(self, order: Literal["raster", "rank"], tokens: int | None = None) -> Reduction:
        """Checks a method's decision, and whether its slots stand in the order it declares; on the CPU.

        Args:
            order: Whether slots stand in the order of their anchors, or in the method's own.
            tokens: How many tokens the decision has to be about.

        Raises:
            ValueError: Where the decision breaks the algebra's rules, is about another number of tokens, or is not in
                the order of its anchors though it says so.
        """
        decision = self.to("cpu").check()
        if tokens is not None and self.num_inputs != tokens:
            raise ValueError(f"a reduction of {self.num_inputs} tokens was decided for {tokens}")
        if order == "raster" and bool((decision.anchor.diff() < 0).any()):
            raise ValueError(
                "slots stand out of the order of their anchors: sort them (in_place()), or declare order = 'rank'"
            )
        return decision

    def apply(self, values: Shaped[Tensor, "n ..."], combine: Combine = "weights") -> Shaped[Tensor, "m ..."]:
        """Reduces any per-token values; untouched tokens keep their bits, merged ones are summed in float32."""
        if self.is_identity:
            return values
        kept = values[self.anchor]
        if not self.merges or not kept.numel():  # of values without width torch's threads make an error
            return kept
        weight = self.weight.float()
        if combine == "sum":
            weight = torch.ones_like(weight)
        elif combine == "mean":
            weight = 1.0 / self.lengths.repeat_interleave(self.lengths).float()
        # a bag adds a slot's members in order: the same bits on every run, which scatter_add does not promise
        bags, starts = values.reshape(values.shape[0], -1).float(), self.lengths.cumsum(0) - self.lengths
        merged = embedding_bag(self.member, bags, starts, mode="sum", per_sample_weights=weight)
        merged = merged.reshape(kept.shape).to(kept.dtype)
        is_merged = (self.lengths > 0).reshape(-1, *[1] * (kept.ndim - 1))
        return torch.where(is_merged, merged, kept)

    def reorder(self, order: Int[Tensor, " m"]) -> Reduction:
        """Puts the slots into another order, with their members.

        >>> Reduction.keep(torch.tensor([2, 0]), num_inputs=3).reorder(torch.tensor([1, 0])).anchor
        tensor([0, 2])
        """
        tag = None if self.tag is None else self.tag[order]
        lengths, member, weight = self.lengths[order], self.member, self.weight
        if member.shape[0]:
            entry = _ragged((self.lengths.cumsum(0) - self.lengths)[order], lengths)
            member, weight = member[entry], weight[entry]
        return Reduction(self.num_inputs, self.anchor[order], lengths, member, weight, tag)

    def in_place(self) -> Reduction:
        """Puts the slots into the order of their anchors; slots that share an anchor keep their own order."""
        if self.is_identity or bool((self.anchor.diff() >= 0).all()):
            return self
        return self.reorder(self.anchor.argsort(stable=True))

    def then(self, later: Reduction) -> Reduction:
        """Composes: the one reduction that equals this one followed by `later`.

        >>> first = Reduction.keep(torch.tensor([1, 2, 3]), num_inputs=4)
        >>> first.then(Reduction.keep(torch.tensor([2]), num_inputs=3)).anchor
        tensor([3])
        """
        if later.num_inputs != self.num_outputs:
            raise ValueError(f"{later.num_inputs} tokens expected, the earlier reduction leaves {self.num_outputs}")
        if later.is_identity or self.is_identity:
            return self if later.is_identity else later
        anchor = self.anchor[later.anchor]
        tag = later.tag if later.tag is not None else None if self.tag is None else self.tag[later.anchor]
        # a slot untouched by `later` inherits its own source's members, if it has any, with weight 1
        inherits = (later.lengths == 0) & (self.lengths[later.anchor] > 0)
        slots = torch.arange(later.num_outputs, device=anchor.device)
        slot = torch.cat([slots.repeat_interleave(later.lengths), slots[inherits]])
        middle = torch.cat([later.member, later.anchor[inherits]])
        weight = torch.cat([later.weight, later.weight.new_ones(middle.shape[0] - later.member.shape[0])])
        # each middle token is either an untouched source token (one entry) or itself a merged slot (all its members)
        lengths = self.lengths[middle]
        fan_out = lengths.clamp(min=1)
        entry = torch.arange(middle.shape[0], device=anchor.device).repeat_interleave(fan_out)
        position = _ragged((self.lengths.cumsum(0) - self.lengths)[middle], fan_out)
        if self.merges:
            merged = lengths[entry] > 0
            position = position.where(merged, 0)
            member = torch.where(merged, self.member[position], self.anchor[middle[entry]])
            inner = torch.where(merged, self.weight[position], 1.0)
        else:
            member, inner = self.anchor[middle[entry]], 1.0
        return Reduction.merge(anchor, slot[entry], member, weight[entry] * inner, self.num_inputs, tag)

    def to(self, device: torch.device | str) -> Reduction:
        """Copies the reduction to another device; itself, where it is there already."""
        if self.anchor.device == torch.device(device):
            return self
        tag = None if self.tag is None else self.tag.to(device)
        anchor, lengths, member, weight = (t.to(device) for t in (self.anchor, self.lengths, self.member, self.weight))
        return Reduction(self.num_inputs, anchor, lengths, member, weight, tag, self.is_identity)


def _ragged(start: Int[Tensor, " m"], lengths: Int[Tensor, " m"]) -> Int[Tensor, " k"]:
    """Concatenates the ranges start, start + 1, ... of the given lengths."""
    total = lengths.cumsum(0)
    first = (start - total + lengths).repeat_interleave(lengths)
    return first + torch.arange(first.shape[0], device=start.device)
