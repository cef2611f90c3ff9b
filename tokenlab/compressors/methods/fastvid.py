"""Density pruning by segments: *FastVID: Dynamic Density Pruning for Fast Video Large Language Models* (NeurIPS 2025).

arXiv 2503.11187.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from tokenlab.compressors import (
    BudgetUnit,
    Evidence,
    FrameFeatures,
    GridReduction,
    GridView,
    PoolingAttention,
    Preference,
    Reduction,
    ReductionKind,
    blend,
    density_peaks,
    segments_between,
    spans,
    top,
)

NEIGHBOURS = 4
"""Of a token, from which its density is measured."""


@dataclass(frozen=True, kw_only=True)
class FastVid(GridReduction, name="fastvid"):
    """Keeps what matters in each frame, and merges the rest of each segment into dense tokens of a few of its frames.

    Args:
        retention_ratio: Kept of each frame, rounded down.
        segments: Segments there are at least.
        tau: Cosine of neighbouring frames below which a segment ends.
        merged: The share of a frame's budget for merged tokens.
        stride: Frames of a segment from one with merged tokens to the next, counted from its end.
        beta: The least weight of a dense token in what is merged into it.
        noise: Added to densities at most.
    """

    retention_ratio: float = 0.1
    segments: int = 8
    tau: float = 0.9
    merged: float = 0.4
    stride: int = 4
    beta: float = 0.6
    noise: float = 1e-6
    paper: ClassVar[str] = "arXiv 2503.11187"
    venue: ClassVar[str] = "NeurIPS 2025"
    licence: ClassVar[str] = "MIT"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    kind: ClassVar[ReductionKind] = "both"
    budget_unit: ClassVar[BudgetUnit] = "medium"
    data_decides: ClassVar[bool] = True  # how the video falls into segments
    temporal: ClassVar[bool] = True
    needs_full_grid: ClassVar[bool] = True
    attention: ClassVar[Evidence] = PoolingAttention()
    features: ClassVar[Evidence] = FrameFeatures()

    def __post_init__(self) -> None:
        """Refuses shares and strides that are none."""
        super().__post_init__()
        if not 0 <= self.merged <= 1:
            raise ValueError(f"merged is {self.merged}, but must be from 0 to 1")
        self.check_counts("stride")

    def reduce_grid(self, view: GridView) -> Reduction:
        """Salient tokens of every frame, then dense tokens of some."""
        frames = view.tokens.as_frames()
        total, tokens = frames.shape[:2]
        keep = max(1, int(tokens * self.retention_ratio))
        dense = int(keep * self.merged)
        salient = top(view.evidence[self.attention].reshape(total, tokens), keep - dense)
        is_rest = torch.ones(total, tokens, dtype=torch.bool, device=frames.device).scatter(1, salient, False)
        kept = Reduction.keep((~is_rest).flatten().nonzero()[:, 0], total * tokens)
        if not dense or not bool(is_rest.any()):
            return kept
        return Reduction.cat([(kept, None), (self._merged(view, is_rest, dense), None)], total * tokens).in_place()

    def _merged(self, view: GridView, is_rest: Bool[Tensor, "t n"], dense: int) -> Reduction:
        """For each frame at a stride its densest tokens, into each of which the tokens of the segment merge."""
        total, tokens = is_rest.shape
        rest = is_rest.flatten().nonzero()[:, 0].unflatten(0, (total, -1))
        values = view.tokens.values.float()[rest]
        unit, score = normalize(values, dim=-1), density_peaks(values, NEIGHBOURS, self.noise, view.generator)
        parts = []
        for first, stop in self._segments(view, total):
            anchors = range(stop - 1, first - 1, -self.stride)
            count = min(dense * (stop - first) // len(anchors), rest.shape[1])
            member = rest[first:stop].flatten()
            for frame in anchors if count else ():
                centre = score[frame].topk(count).indices
                nearest = (unit[first:stop].flatten(0, 1) @ unit[frame, centre].mT).argmax(dim=1)
                own = (1 / (nearest.bincount(minlength=count) + 1)).clamp(min=self.beta)
                parts.append((blend(rest[frame, centre], nearest, member, own, 1 - own, total * tokens), None))
        return Reduction.cat(parts, total * tokens)

    def _segments(self, view: GridView, total: int) -> list[tuple[int, int]]:
        """First frame of each segment, and the frame behind its last."""
        numbers = view.tokens.frame.reshape(total, -1)[:, 0]
        features = view.evidence[self.features][numbers]
        similarity = cosine_similarity(features[1:], features[:-1], dim=-1)
        return spans(segments_between(similarity, self.segments, self.tau), total)
