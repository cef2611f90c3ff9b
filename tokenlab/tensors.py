"""Named tensors: a medium's visual tokens, the reductions decided on them, and the trace of what was applied.

Everything here holds one sample (one medium, one prompt); the batch axis belongs to the model side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

Combine = Literal["weights", "mean", "sum"]
"""How values of merged tokens become one: by the reduction's own weights, their mean, or their sum."""


@dataclass(frozen=True)
class Evidence:
    """Something a method may look at besides the tokens; subclasses name it and are the keys of `view.evidence`.

    `per_token` evidence has one row a token and rides through every reduction, combined as `combine` says.
    """

    combine: ClassVar[Combine] = "weights"
    per_token: ClassVar[bool] = True


@dataclass(frozen=True)
class Reduction:
    """m output slots over n input tokens, stored sparsely: memory grows with what is merged, never with m x n.

    A slot takes the place (position, grid place, separator run) of its `anchor`. A slot with members is the weighted
    sum of exactly those members (the anchor counts only if it is listed; weights need not be convex); a slot without
    members is its anchor's own value, untouched.
    """

    num_inputs: int
    anchor: Int[Tensor, " m"]
    lengths: Int[Tensor, " m"]  # how many members each slot has; 0: the anchor's own value
    member: Int[Tensor, " k"]  # the slots' members, one slot after the other
    weight: Float[Tensor, " k"]
    tag: Int[Tensor, " m"] | None = None  # a label that travels to later stages

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
        """Keeps every token in its place."""
        return cls.keep(torch.arange(num_inputs, device=device), num_inputs)

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

    @property
    def num_outputs(self) -> int:
        """The number of slots, m."""
        return self.anchor.shape[0]

    @cached_property
    def merges(self) -> bool:
        """Whether any slot has members."""
        return self.member.shape[0] > 0

    @cached_property
    def is_identity(self) -> bool:
        """Whether every token stays, untouched, in its place."""
        if self.merges or self.num_outputs != self.num_inputs:
            return False
        return bool((self.anchor == torch.arange(self.num_inputs, device=self.anchor.device)).all())

    def check(self) -> Reduction:
        """Returns itself, or raises ValueError where it breaks the algebra's rules."""
        sources = torch.cat([self.anchor, self.member])
        if self.num_outputs == 0:
            raise ValueError("a reduction must leave at least one token")
        if sources.min() < 0 or sources.max() >= self.num_inputs:
            raise ValueError(f"a reduction of {self.num_inputs} tokens names token {int(sources.max())}")
        if int(self.lengths.sum()) != self.member.shape[0] or self.member.shape != self.weight.shape:
            raise ValueError("a reduction's lengths, members and weights do not fit together")
        pruned = self.anchor[self.lengths == 0]
        if pruned.unique().shape[0] != pruned.shape[0]:
            raise ValueError("a reduction keeps the same token twice")
        return self

    def apply(self, values: Shaped[Tensor, "n ..."], combine: Combine = "weights") -> Shaped[Tensor, "m ..."]:
        """Reduces any per-token values; untouched tokens keep their bits, merged ones are summed in float32."""
        kept = values[self.anchor]
        if not self.merges:
            return kept
        weight = self.weight.float()
        if combine == "sum":
            weight = torch.ones_like(weight)
        elif combine == "mean":
            weight = 1.0 / self.lengths.repeat_interleave(self.lengths).float()
        flat = values[self.member].float().reshape(self.member.shape[0], -1) * weight[:, None]
        # segment_reduce adds a slot's members in order: the same bits on every run, which scatter_add does not promise
        merged = torch.segment_reduce(flat, "sum", lengths=self.lengths, axis=0, initial=0.0)
        merged = merged.reshape(kept.shape).to(kept.dtype)
        is_merged = (self.lengths > 0).reshape(-1, *[1] * (kept.ndim - 1))
        return torch.where(is_merged, merged, kept)

    def then(self, later: Reduction) -> Reduction:
        """The one reduction that equals this one followed by `later`.

        >>> first = Reduction.keep(torch.tensor([1, 2, 3]), num_inputs=4)
        >>> first.then(Reduction.keep(torch.tensor([2]), num_inputs=3)).anchor
        tensor([3])
        """
        if later.num_inputs != self.num_outputs:
            raise ValueError(f"{later.num_inputs} tokens expected, the earlier reduction leaves {self.num_outputs}")
        anchor = self.anchor[later.anchor]
        tag = later.tag if later.tag is not None else None if self.tag is None else self.tag[later.anchor]
        # a slot untouched by `later` inherits its own source's members, if it has any, with weight 1
        inherits = (later.lengths == 0) & (self.lengths[later.anchor] > 0)
        slots = torch.arange(later.num_outputs, device=anchor.device)
        slot = torch.cat([slots.repeat_interleave(later.lengths), slots[inherits]])
        middle = torch.cat([later.member, later.anchor[inherits]])
        weight = torch.cat([later.weight, later.weight.new_ones(int(inherits.sum()))])
        # each middle token is either an untouched source token (one entry) or itself a merged slot (all its members)
        lengths = self.lengths[middle]
        fan_out = lengths.clamp(min=1)
        entry = torch.arange(middle.shape[0], device=anchor.device).repeat_interleave(fan_out)
        within = torch.arange(entry.shape[0], device=anchor.device) - (fan_out.cumsum(0) - fan_out)[entry]
        start = (self.lengths.cumsum(0) - self.lengths)[middle]
        merged = lengths[entry] > 0
        position = torch.where(merged, start[entry] + within, 0)
        if self.merges:
            member = torch.where(merged, self.member[position], self.anchor[middle[entry]])
            inner = torch.where(merged, self.weight[position], 1.0)
        else:
            member, inner = self.anchor[middle[entry]], 1.0
        return Reduction.merge(anchor, slot[entry], member, weight[entry] * inner, self.num_inputs, tag)

    def to(self, device: torch.device | str) -> Reduction:
        """A copy on another device."""
        tag = None if self.tag is None else self.tag.to(device)
        tensors = (t.to(device) for t in (self.anchor, self.lengths, self.member, self.weight))
        return Reduction(self.num_inputs, *tensors, tag)


@dataclass(frozen=True)
class VisualTokens:
    """One medium's tokens on its token grid, with the evidence that was asked for."""

    values: Float[Tensor, "n d"]
    places: Int[Tensor, "n 3"]  # frame, row, column of each token
    grid: tuple[int, int, int]  # frames, rows, columns before any reduction
    evidence: Mapping[Evidence, Tensor] = field(default_factory=dict)
    tag: Int[Tensor, " n"] | None = None

    @classmethod
    def from_grid(
        cls, values: Float[Tensor, "t h w d"], evidence: Mapping[Evidence, Tensor] | None = None
    ) -> VisualTokens:
        """All tokens of a full grid, in raster order."""
        frames, rows, columns, _ = values.shape
        axes = (torch.arange(size, device=values.device) for size in (frames, rows, columns))
        places = torch.cartesian_prod(*axes).reshape(-1, 3)
        return cls(values.flatten(0, 2), places, (frames, rows, columns), evidence or {})

    @property
    def num_tokens(self) -> int:
        """The number of tokens, n."""
        return self.values.shape[0]

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one full frame, rows x columns."""
        return self.grid[1] * self.grid[2]

    @cached_property
    def frame(self) -> Int[Tensor, " n"]:
        """Each token's frame."""
        return self.places[:, 0]

    def as_frames(self) -> Float[Tensor, "t n d"]:
        """The values as whole frames; raises ValueError if some frame lacks tokens."""
        frames = self.frame.reshape(-1, self.tokens_per_frame) if self.num_tokens % self.tokens_per_frame == 0 else None
        if frames is None or not bool((frames == frames[:, :1]).all()):
            raise ValueError("the token grid is ragged: an earlier compressor removed tokens from some frames")
        return self.values.reshape(-1, self.tokens_per_frame, self.values.shape[-1])

    def to(self, device: torch.device | str) -> VisualTokens:
        """The same on another device; itself, where it is there already."""
        if device == self.values.device:
            return self
        evidence = {key: value.to(device) for key, value in self.evidence.items()}
        tag = None if self.tag is None else self.tag.to(device)
        values, places = self.values.to(device), self.places.to(device)
        return replace(self, values=values, places=places, evidence=evidence, tag=tag)

    def reduce(self, reduction: Reduction) -> VisualTokens:
        """The tokens that remain, with their places, tags and evidence."""
        evidence = {
            key: reduction.apply(value, key.combine) if key.per_token else value for key, value in self.evidence.items()
        }
        tag = reduction.tag if reduction.tag is not None else None if self.tag is None else self.tag[reduction.anchor]
        return replace(
            self, values=reduction.apply(self.values), places=self.places[reduction.anchor], evidence=evidence, tag=tag
        )


@dataclass(frozen=True)
class Step:
    """One reduction as it was applied to one medium of a prompt."""

    stage: str
    compressor: str
    medium: int
    reduction: Reduction
    layer: int | None = None


@dataclass(frozen=True)
class MediumShape:
    """What one medium brought before any reduction: frames, tokens on the grid, and outside it (newlines)."""

    grid_tokens: int
    separators: int = 0
    still: bool = False  # an image

    @property
    def num_tokens(self) -> int:
        """Visual tokens of the untouched medium."""
        return self.grid_tokens + self.separators


BlockTokens = tuple[tuple[int, int], ...]
"""For each block of a tower the tokens of a frame that its attention reads, and its MLP; (): all the same."""


@dataclass(frozen=True)
class Trace:
    """What was really done to one sample by one arm; counts, ratios, FLOPs and pictures are computed from it."""

    media: tuple[MediumShape, ...]
    steps: tuple[Step, ...]
    prompt_tokens: int  # length of the sequence the untouched model would read
    prefill_tokens: int  # length of the sequence the LLM read
    grids: tuple[tuple[int, int, int], ...]  # per medium: its token grid as the tower made it, after frame selection
    passes: tuple[int, ...] = ()  # per medium: how often the tower ran, once a frame, a tile or a few frames together
    tower_tokens: tuple[BlockTokens, ...] = ()  # per medium: what a pass lost from block to block
    projected_tokens: int = 0  # merged before the projector, which took each of them besides all patches
    generated_tokens: int = 0  # tokens produced, the end-of-sequence token included
    auxiliary_frames: int = 0  # frames whose patches an auxiliary encoder read for this arm
    auxiliary_scored: int = 0  # frames that it read as a whole
    auxiliary_text: tuple[int, ...] = ()  # lengths of the texts that it read
    auxiliary_pooled: int = 0  # passes of the tower that an auxiliary pooling head looked at
    attention_tokens: tuple[int, ...] = ()  # tokens that each layer's attention read at prefill; (): all the same
    mlp_tokens: tuple[int, ...] = ()  # tokens that were left behind each layer's attention; (): all the same
    decode_sight: tuple[tuple[int, ...], ...] = ()  # cached tokens that each step looked at, by layer; (): all
    rotated_tokens: tuple[int, int] = (0, 0)  # tokens given other positions between layers: at prefill, at each step

    @property
    def visual_tokens_in(self) -> int:
        """Visual tokens of the untouched media."""
        return sum(medium.num_tokens for medium in self.media)

    @property
    def visual_tokens_out(self) -> int:
        """Visual tokens that are left of the prompt when the last layer has read it."""
        return self.visual_tokens_after(len(self.steps))

    def visual_tokens_after(self, num_steps: int) -> int:
        """Visual tokens left after the first `num_steps` reductions."""
        left = [medium.grid_tokens for medium in self.media]
        for step in self.steps[:num_steps]:
            if step.stage == "frames":
                left[step.medium] = math.prod(self.grids[step.medium])
            else:
                left[step.medium] = step.reduction.num_outputs
        return sum(left) + sum(medium.separators for medium in self.media)
