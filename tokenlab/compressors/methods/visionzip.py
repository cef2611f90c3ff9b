"""Dominant and contextual tokens: *VisionZip: Longer is Better but Not Necessary* (CVPR 2025, 2412.04467)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
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
    blend,
    frame_by_frame,
    in_medium,
    top,
)


@dataclass(frozen=True, kw_only=True)
class VisionZip(FrameWise, name="visionzip"):
    """Keeps what [CLS] attends to and sums up the rest of each frame in a few evenly spaced tokens.

    Args:
        dominant: Tokens of a frame that stay as they are; the authors' number counts [CLS], which the token grid does
            not hold: one more patch takes its place.
        contextual: Tokens of a frame that gather the others. With a `retention_ratio`, only the proportion of the two
            counts; with `null` they are the budget.
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    dominant: int = 54
    contextual: int = 10
    paper: ClassVar[str] = "arXiv 2412.04467"
    venue: ClassVar[str] = "CVPR 2025"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    kind: ClassVar[ReductionKind] = "both"
    order: ClassVar[Literal["raster", "rank"]] = "rank"
    needs_full_grid: ClassVar[bool] = True
    has_native_budget: ClassVar[bool] = True
    merges_before_projector: ClassVar[bool] = True
    attention: ClassVar[Evidence] = TowerAttention(layer=-2, query="cls_or_mean")
    keys: ClassVar[Evidence] = TowerKeys(layer=-2)

    def __post_init__(self) -> None:
        """Refuses a split that leaves nothing."""
        super().__post_init__()
        if self.dominant < 1 or self.contextual < 0:
            raise ValueError(f"dominant is {self.dominant} and contextual {self.contextual}: at least 1 and 0")

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """The authors' count of each frame, where no ratio is given."""
        if self.retention_ratio is not None:
            return super().kept(frame_sizes)
        return sum(min(tokens, self.dominant + self.contextual) for tokens in frame_sizes)

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Splits the budget of a frame and zips all frames at once."""
        dominant, contextual = self.dominant, self.contextual
        if self.retention_ratio is not None:
            dominant = max(1, view.budget * dominant // (dominant + contextual))
            contextual = view.budget - dominant
        return zip_frames(view.evidence[self.attention], view.evidence[self.keys], dominant, contextual)


def zip_frames(scores: Float[Tensor, "t n"], keys: Float[Tensor, "t n e"], dominant: int, contextual: int) -> Reduction:
    """Keeps each frame's `dominant` highest scores, and sums the rest up in `contextual` tokens behind them.

    A source with an infinite score, such as a [CLS] token listed first, always stays.
    """
    frames, tokens = scores.shape
    kept = top(scores, dominant)
    rest = torch.ones_like(scores, dtype=torch.bool).scatter(1, kept, False).nonzero()[:, 1].reshape(frames, -1)
    contextual = min(contextual, rest.shape[1])
    dominant_tokens = Reduction.keep(in_medium(kept, tokens), frames * tokens)
    if contextual == 0:
        return dominant_tokens
    column, stride = torch.arange(rest.shape[1], device=scores.device), rest.shape[1] // contextual
    is_target = (column % stride == 0) & (column < contextual * stride)
    targets, others = rest[:, is_target], rest[:, ~is_target]
    keys, frame = normalize(keys.float(), dim=-1), torch.arange(frames, device=scores.device)[:, None]
    nearest = (keys[frame, others] @ keys[frame, targets].mT).argmax(dim=-1)
    # Paper: assigned tokens are merged into their target; released code, which we follow, adds their mean to it
    target, slot, other = in_medium(targets, tokens), in_medium(nearest, contextual), in_medium(others, tokens)
    contextual_tokens = blend(target, slot, other, own=1.0, others=1.0, num_inputs=frames * tokens)
    both = Reduction.cat([(dominant_tokens, None), (contextual_tokens, None)], frames * tokens)
    return frame_by_frame(both, tokens)
