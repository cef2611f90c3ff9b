"""Text relevance and a summary: *Less is More: A Simple yet Effective Token Reduction Method for Efficient MLLMs*.

COLING 2025 (TRIM), arXiv 2409.10994.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from tokenlab.compressors import (
    Evidence,
    FramesView,
    FrameWise,
    Preference,
    QuestionEmbeddings,
    Reduction,
    ReductionKind,
    TokenEmbeddings,
    outliers,
    with_mean_of_rest,
)


@dataclass(frozen=True, kw_only=True)
class Trim(FrameWise, name="trim"):
    """Keeps the tokens of each frame that stand out by their fit to the question, and the mean of all others.

    Args:
        retention_ratio: Kept of each frame, rounded down, besides the mean. `null` keeps the outliers: what lies more
            than one and a half interquartile ranges above the third quartile.
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    paper: ClassVar[str] = "arXiv 2409.10994"
    venue: ClassVar[str] = "COLING 2025"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("unlike text",)
    kind: ClassVar[ReductionKind] = "both"
    order: ClassVar[Literal["raster", "rank"]] = "rank"
    has_native_budget: ClassVar[bool] = True
    merges_before_projector: ClassVar[bool] = True
    patches: ClassVar[Evidence] = TokenEmbeddings("clip", layer=-2)
    words: ClassVar[Evidence] = QuestionEmbeddings("clip")

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """One token a frame more than its share rounded down."""
        ratio = self.retention_ratio
        if ratio is None or self.is_off:
            return sum(frame_sizes) if self.is_off else None
        return sum(int(ratio * size) + 1 for size in frame_sizes)

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Ranks by the softmax of dot products over each frame; of several parts of a long question, by their mean."""
        words = view.evidence[self.words].float().mean(dim=0)
        # Released code, which we follow, keeps tokens with LOW products
        scores = (-(view.evidence[self.patches].float() @ words)).softmax(dim=-1)
        frames, tokens = scores.shape
        if self.retention_ratio is None:
            count = torch.tensor([int(tokens * outliers(frame)) for frame in scores])
        else:
            count = torch.full((frames,), int(self.retention_ratio * tokens))
        rank = scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        return with_mean_of_rest(rank < count.to(rank.device)[:, None])
