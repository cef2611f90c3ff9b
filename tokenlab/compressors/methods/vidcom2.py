"""Uniqueness: *Video Compression Commander: Plug-and-Play Inference Acceleration for Video LLMs* (2505.14454)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

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
    rest_of,
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
        count: How many stay: what the frames' rounded budgets come to, as `released`; or, as the `engine` vLLM has it,
            the whole video's share rounded down, and a token a frame at least.
    """

    retention_ratio: float = 0.25
    channels: float = 0.5
    count: Literal["released", "engine"] = "released"
    paper: ClassVar[str] = "arXiv 2505.14454"
    venue: ClassVar[str] = "EMNLP 2025"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("diversity",)
    budget_unit: ClassVar[BudgetUnit] = "medium"
    data_decides: ClassVar[bool] = True  # as released: each frame rounds, and some fill up
    temporal: ClassVar[bool] = True
    needs_full_grid: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses a share that is none."""
        super().__post_init__()
        self.check_shares("channels")

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """Known before the pixels where it is the engine's."""
        if self.count == "released":
            return super().kept(frame_sizes)
        return self.of_video(len(frame_sizes), sum(frame_sizes))

    def of_video(self, frames: int, tokens: int) -> int:
        """The engine's count."""
        return max(frames, int(self.retention_ratio * tokens))

    def reduce_grid(self, view: GridView) -> Reduction:
        """Scores every token by its likeness to both means; the least like stay."""
        frames = view.tokens.as_frames().float()
        total, tokens, width = frames.shape
        steady = frames.var(dim=(0, 1), correction=0).argsort(stable=True)[: max(1, int(self.channels * width))]
        unit = normalize(frames[..., steady], dim=-1)
        to_video = likeness(unit, unit.mean(dim=(0, 1)))
        to_frame = likeness(unit, unit.mean(dim=1, keepdim=True))
        like = (to_video + to_frame).flatten()
        index = top_per_frame(-like, view.tokens.frame, self.budgets(to_video, tokens))
        if self.count == "engine":
            index = exactly(self.of_video(total, total * tokens), index, like)
        return Reduction.keep(index, total * tokens)

    def budgets(self, to_video: Float[Tensor, "t n"], tokens: int) -> Int[Tensor, " t"]:
        """Tokens of each frame: the ratio, raised where a frame is unlike the video."""
        share = (-to_video.mean(dim=1) / TEMPERATURE).softmax(dim=0)
        scale = (self.retention_ratio * (1 + share - share.mean())).clamp(max=1)
        return (scale * tokens).round().long().clamp(min=1)


def exactly(count: int, index: Int[Tensor, " m"], like: Float[Tensor, " n"]) -> Int[Tensor, " count"]:
    """Drops those of the kept tokens that are most like the means, or takes back those of the others least like them.

    >>> exactly(2, torch.tensor([0, 1, 2]), torch.tensor([1.0, 3.0, 2.0, 4.0]))
    tensor([0, 2])
    >>> exactly(2, torch.tensor([0]), torch.tensor([1.0, 3.0, 2.0, 4.0]))
    tensor([0, 2])
    """
    if len(index) >= count:
        return index[rest_of(like[index].topk(len(index) - count).indices, len(index))]
    others = rest_of(index, len(like))
    back = (-like[others]).topk(count - len(index)).indices
    return torch.cat([index, others[back]]).sort().values


def likeness(unit: Float[Tensor, "t n d"], centre: Float[Tensor, "*_ d"]) -> Float[Tensor, "t n"]:
    """Sums Gaussian kernels of several widths around a centre (section 3.2)."""
    distance = (unit - centre).square().sum(dim=-1)
    return torch.stack([(-distance / (2 * width)).exp() for width in WIDTHS]).sum(dim=0)
