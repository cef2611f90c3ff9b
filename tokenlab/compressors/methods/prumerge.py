"""Outliers and their neighbours: *LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models*.

ICCV 2025, arXiv 2403.15388.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors import (
    Evidence,
    FramesView,
    FrameWise,
    Preference,
    Reduction,
    ReductionKind,
    TowerAttention,
    TowerKeys,
    evenly_spaced,
    outliers,
    rest_of,
)


@dataclass(frozen=True, kw_only=True)
class PruMerge(FrameWise, name="prumerge"):
    """Keeps what [CLS] attends to most, adds to each token what its neighbours hold, and sums up the rest in one.

    Args:
        retention_ratio: Left of each frame, the sum of the rest included; with `plus`, half of the kept tokens are
            chosen by attention.
        share: The authors' budget, where `retention_ratio` is `null`: the share of tokens that attention chooses;
            `null`: as many as are outliers of it.
        plus: Whether evenly spaced tokens are kept besides (PruMerge+).
        neighbours: How many tokens with the most similar keys are added to a kept one.
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    share: float | None = None
    plus: bool = False
    neighbours: int = 32
    paper: ClassVar[str] = "arXiv 2403.15388"
    venue: ClassVar[str] = "ICCV 2025"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    kind: ClassVar[ReductionKind] = "both"
    order: ClassVar[Literal["raster", "rank"]] = "rank"
    has_native_budget: ClassVar[bool] = True
    merges_before_projector: ClassVar[bool] = True
    attention: ClassVar[Evidence] = TowerAttention(layer=-1, query="cls", heads="one")
    keys: ClassVar[Evidence] = TowerKeys(layer=-1, heads="all")

    def __post_init__(self) -> None:
        """Refuses a share that is none."""
        super().__post_init__()
        if self.share is not None:
            self.check_shares("share")

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """Known from a ratio alone."""
        return None if self.retention_ratio is None else super().kept(frame_sizes)

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Frame by frame: their kept tokens may differ in number."""
        attention, unit = view.evidence[self.attention].float(), normalize(view.evidence[self.keys].float(), dim=-1)
        # Released code, which we follow, looks for outliers among all pictures at once
        share = outliers(view.medium.evidence[self.attention].float()) if self.share is None else self.share
        tokens, parts = attention.shape[1], []
        for number, (received, keys) in enumerate(zip(attention, unit, strict=True)):
            kept, rest = self._split(received, view.budget, share)
            index = torch.arange(tokens, device=kept.device) + number * tokens
            parts.append((self._gathered(kept, rest, received, keys), index))
        return Reduction.cat(parts, attention.numel())

    def _split(
        self, attention: Float[Tensor, " n"], budget: int, share: float
    ) -> tuple[Int[Tensor, " k"], Int[Tensor, " r"]]:
        """The kept tokens, the most attended first and then the evenly spaced; and the others."""
        by_attention = attention.argsort(descending=True, stable=True)
        tokens = len(attention)
        if self.retention_ratio is not None:
            chosen = (budget - 1 + self.plus) // (1 + self.plus)
            rest = by_attention[chosen:].sort().values
            even = rest[evenly_spaced(budget - 1 - chosen, len(rest))]
        else:
            chosen = int(tokens * share)
            even = self._authors_grid(by_attention[:chosen], tokens, share)
        kept = torch.cat([by_attention[:chosen], even])
        # A token that is named twice is two slots, for which released code forgets the first of the others
        return kept, rest_of(kept, tokens)[len(kept) - len(kept.unique()) :]

    def _authors_grid(self, chosen: Int[Tensor, " k"], tokens: int, share: float) -> Int[Tensor, " g"]:
        """PruMerge+: every few tokens; where outliers decide, but for those that are kept already."""
        if not self.plus or not share:
            return chosen[:0]
        if self.share is not None:
            step = int(1 / share)
            return torch.arange(step // 2, tokens - 1, step, device=chosen.device)
        even = torch.arange(0, tokens - 1, max(1, int(1 / share) // 3), device=chosen.device)
        return even[~torch.isin(even, chosen)]

    def _gathered(
        self,
        kept: Int[Tensor, " k"],
        rest: Int[Tensor, " r"],
        attention: Float[Tensor, " n"],
        keys: Float[Tensor, "n d"],
    ) -> Reduction:
        """Each kept token and its neighbours; then one sum of all others; weights are raw attention."""
        every = torch.cat([kept, rest])
        likeness = keys[kept] @ keys[every].mT
        likeness.diagonal().fill_(-torch.inf)
        nearest = every[likeness.topk(min(self.neighbours, len(every) - 1), dim=1).indices]
        slots = torch.arange(len(kept), device=kept.device)
        # Paper: a weighted mean; released code, which we follow, adds neighbours to the token
        member = torch.cat([kept, nearest.flatten(), rest])
        slot = torch.cat([slots, slots.repeat_interleave(nearest.shape[1]), torch.full_like(rest, len(kept))])
        weight = torch.cat([torch.ones_like(kept).float(), attention[member[len(kept) :]]])
        last = rest[-1:] if len(rest) else kept[-1:]
        return Reduction.merge(torch.cat([kept, last]), slot, member, weight, len(attention))
