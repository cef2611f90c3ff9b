"""Temporal pruning and dynamic decoding: *DyCoke: Dynamic Compression of Tokens for Fast Video LLMs* (2411.15024)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenlab.compressors import (
    CacheReduction,
    CacheView,
    Evidence,
    GridReduction,
    GridView,
    Preference,
    Reduction,
    State,
    StepAttention,
    budget,
    scaled_layer,
    top,
)


@dataclass(frozen=True, kw_only=True)
class DyCoke(GridReduction, CacheReduction, name="dycoke"):
    """Drops what repeats a frame shortly before, then decodes with the visual tokens that matter at each step.

    Args:
        retention_ratio: Tokens left on the grid, from 0.25 as one frame in four stays whole; `null` leaves it to `k`.
        k: The authors' budget: the share that goes of a frame that is pruned.
        p: The share of visual tokens that a decode step does not see.
        layer: At the entry of which of 28 layers they are chosen, by the attention of the one before.
        similarity: A step whose attention is at least this like the last step's sees all tokens.
        ends: What becomes of a video's last frames: in `released` code the third of the last four stays whole, and the
            last of an odd number is lost (from five on: fewer it cannot read); by the `paper` neither.
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    k: float = 0.7
    p: float = 0.7
    layer: int = 3
    similarity: float = 0.9
    ends: Literal["released", "paper"] = "released"
    paper: ClassVar[str] = "arXiv 2411.15024"
    venue: ClassVar[str] = "CVPR 2025"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("novelty",)
    order: ClassVar[Literal["raster", "rank"]] = "rank"
    temporal: ClassVar[bool] = True
    needs_full_grid: ClassVar[bool] = True
    has_native_budget: ClassVar[bool] = True
    lowest_ratio: ClassVar[float] = 0.25
    attention: ClassVar[Evidence] = StepAttention()

    def __post_init__(self) -> None:
        """Refuses shares that are none."""
        super().__post_init__()
        for name, share in (("k", self.k), ("p", self.p)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} is {share}, but must be at least 0 and less than 1")

    def reduce_grid(self, view: GridView) -> Reduction:
        """Keeps, of each frame that is compared with one before it, the tokens least like those in the same place."""
        frames = view.tokens.as_frames().float()
        total, tokens = frames.shape[:2]
        back = self.compared_with(total).to(frames.device)
        pruned = back.nonzero().flatten()
        keep = self.kept_of_pruned(total, tokens, pruned.shape[0])
        # Paper: tokens are merged; released code, which we follow, drops them and puts the least similar ones first
        order = torch.arange(tokens, device=frames.device).repeat(total, 1)
        order[pruned] = cosine_similarity(frames[pruned], frames[pruned - back[pruned]], dim=-1).argsort(stable=True)
        kept = torch.where(back > 0, keep, tokens)
        kept[total - self.lost(total) :] = 0
        index = order + torch.arange(total, device=frames.device)[:, None] * tokens
        return Reduction.keep(index[torch.arange(tokens, device=frames.device) < kept[:, None]], total * tokens)

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """What stays of the frames that are pruned, and all others whole."""
        total, tokens = len(frame_sizes), frame_sizes[0]
        pruned = int(self.compared_with(total).count_nonzero())
        whole = total - pruned - self.lost(total)
        return whole * tokens + pruned * self.kept_of_pruned(total, tokens, pruned)

    def kept_of_pruned(self, total: int, tokens: int, pruned: int) -> int:
        """Tokens that stay of each frame that is pruned, so that the whole video meets its budget."""
        if self.retention_ratio is None:
            return int((1 - self.k) * tokens)
        whole = total - pruned - self.lost(total)
        to_share = total * budget(self.retention_ratio, tokens) - whole * tokens
        return min(tokens, max(0, to_share // max(1, pruned)))

    def compared_with(self, total: int) -> Int[Tensor, " t"]:
        """How many frames before it the frame is that each is compared with; 0 where it stays whole."""
        frame = torch.arange(total)
        back = torch.tensor([0, 1, 2, 1])[frame % 4]
        return back if self.ends == "paper" else back.masked_fill((frame % 4 == 2) & (frame + 2 >= total), 0)

    def lost(self, total: int) -> int:
        """How many frames at the end go."""
        return total % 2 if self.ends == "released" and total > 4 else 0

    def cache_layers(self, num_layers: int) -> Sequence[int]:
        """One layer; those above it see the same tokens."""
        return [scaled_layer(self.layer, 28, num_layers)]

    def reduce_cache(self, view: CacheView, state: State) -> tuple[Reduction, Tensor]:
        """Keeps the most attended tokens for this step; the state is the step's attention to the medium."""
        attention = view.evidence[self.attention][view.visual].float()
        tokens = attention.shape[0]
        # Paper: like steps share a choice; released code, which we follow, lets a like step see all tokens
        if state is not None and cosine_similarity(state, attention, dim=0) >= self.similarity:
            return Reduction.identity(tokens, attention.device), attention
        return Reduction.keep(top(attention, max(1, int(tokens * (1 - self.p)))), tokens), attention
