"""Frame by frame: *TimeChat-Online: 80% Visual Tokens are Naturally Redundant in Streaming Videos* (2504.17343)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenlab.compressors import (
    BudgetUnit,
    Evidence,
    GridReduction,
    GridView,
    PixelChange,
    Preference,
    Reduction,
    budget,
    neighbour_cosine,
    top,
)


@dataclass(frozen=True, kw_only=True)
class Dtd(GridReduction, name="dtd"):
    """Drops the tokens that are like those in the same place of the frame before; the first frame stays.

    Args:
        retention_ratio: Tokens left of the video, the same number of each frame but the first; `null` leaves it to
            `threshold`.
        threshold: The authors' budget: the cosine above which a token goes, or the difference of pixels, from 0 to 1,
            below which it does; or the share of every frame that goes.
        mode: Whether that is an `absolute` likeness, or `relative` to the others of the frame.
        by: Whether `features` are compared, by their cosine, or the `pixels` that a token shows.
    """

    retention_ratio: float | None = None
    threshold: float = 0.5
    mode: Literal["absolute", "relative"] = "absolute"
    by: Literal["features", "pixels"] = "features"
    paper: ClassVar[str] = "arXiv 2504.17343"
    venue: ClassVar[str] = "2025"
    licence: ClassVar[str] = "BSD-3-Clause"
    prefers: ClassVar[tuple[Preference, ...]] = ("novelty",)
    budget_unit: ClassVar[BudgetUnit] = "medium"
    temporal: ClassVar[bool] = True
    needs_full_grid: ClassVar[bool] = True
    has_native_budget: ClassVar[bool] = True
    change: ClassVar[Evidence] = PixelChange()

    def __post_init__(self) -> None:
        """Refuses a threshold that is neither a share nor a likeness."""
        super().__post_init__()
        lowest = -1 if self.mode == "absolute" and self.by == "features" else 0
        if not lowest <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}, but must be from {lowest} to 1")

    def needs(self) -> frozenset[Evidence]:
        """Pixels where they are compared."""
        return frozenset({self.change} if self.by == "pixels" else {})

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """Known where a share goes of every frame, and not where likeness decides."""
        total, tokens = len(frame_sizes), frame_sizes[0]
        kept = self.kept_of_frame(total, tokens)
        return None if kept is None else tokens + (total - 1) * kept

    def kept_of_frame(self, total: int, tokens: int) -> int | None:
        """Tokens that stay of each frame but the first."""
        if self.retention_ratio is not None:
            left = budget(self.retention_ratio, total * tokens) - tokens
            return max(0, left // max(1, total - 1))
        return tokens - int(tokens * self.threshold) if self.mode == "relative" else None

    def reduce_grid(self, view: GridView) -> Reduction:
        """Compares each frame with the whole one before it."""
        frames = view.tokens.as_frames()
        total, tokens = frames.shape[:2]
        if self.by == "pixels":
            novelty, least = view.evidence[self.change].unflatten(0, (total, tokens))[1:], self.threshold
        else:
            novelty, least = -neighbour_cosine(frames.float()), -self.threshold
        stays = torch.cat([torch.ones_like(frames[:1, :, 0], dtype=torch.bool), self.stays(novelty, least)])
        return Reduction.keep(stays.flatten().nonzero()[:, 0], total * tokens)

    def stays(self, novelty: Float[Tensor, "gaps n"], least: float) -> Bool[Tensor, "gaps n"]:
        """Which tokens stay of the frames behind the first."""
        kept = self.kept_of_frame(len(novelty) + 1, novelty.shape[1])
        if kept is None:
            return novelty >= least
        return torch.zeros_like(novelty, dtype=torch.bool).scatter(1, top(novelty, kept), True)
