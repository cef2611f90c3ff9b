"""Uniqueness: *Video Compression Commander: Plug-and-Play Inference Acceleration for Video LLMs* (2505.14454)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors import (
    BudgetUnit,
    GridReduction,
    GridView,
    Preference,
    Reduction,
    top_per_frame,
)

WIDTHS = tuple(2.0**power for power in range(-3, 2))
"""Of the Gaussian kernels whose sum says how alike two tokens are."""
TEMPERATURE = 0.01


@dataclass(frozen=True, kw_only=True)
class VidCom2(GridReduction, name="vidcom2"):
    """Keeps the tokens least like the mean of their frame and of the video, more of frames that stand out.

    Args:
        channels: Share of the channels that are compared, those of the least variance.
    """

    retention_ratio: float = 0.25
    channels: float = 0.5
    paper: ClassVar[str] = "arXiv 2505.14454"
    venue: ClassVar[str] = "EMNLP 2025"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("diversity",)
    budget_unit: ClassVar[BudgetUnit] = "medium"
    data_decides: ClassVar[bool] = True  # each frame rounds, and some fill up
    temporal: ClassVar[bool] = True
    needs_full_grid: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses a share that is none."""
        super().__post_init__()
        self.check_shares("channels")

    def reduce_grid(self, view: GridView) -> Reduction:
        """Scores every token by its likeness to both means; the least like stay."""
        frames = view.tokens.as_frames().float()
        total, tokens, width = frames.shape
        steady = frames.var(dim=(0, 1), correction=0).argsort(stable=True)[: max(1, int(self.channels * width))]
        unit = normalize(frames[..., steady], dim=-1)
        to_video = likeness(unit, unit.mean(dim=(0, 1)))
        to_frame = likeness(unit, unit.mean(dim=1, keepdim=True))
        keep = self.budgets(to_video, tokens)
        index = top_per_frame(-(to_video + to_frame).flatten(), view.tokens.frame, keep)
        return Reduction.keep(index, total * tokens)

    def budgets(self, to_video: Float[Tensor, "t n"], tokens: int) -> Int[Tensor, " t"]:
        """Tokens of each frame: the ratio, raised where a frame is unlike the video."""
        share = (-to_video.mean(dim=1) / TEMPERATURE).softmax(dim=0)
        scale = (self.retention_ratio * (1 + share - share.mean())).clamp(max=1)
        return (scale * tokens).round().long().clamp(min=1)


def likeness(unit: Float[Tensor, "t n d"], centre: Float[Tensor, "*_ d"]) -> Float[Tensor, "t n"]:
    """Sums Gaussian kernels of several widths around a centre (section 3.2)."""
    distance = (unit - centre).square().sum(dim=-1)
    return torch.stack([(-distance / (2 * width)).exp() for width in WIDTHS]).sum(dim=0)
