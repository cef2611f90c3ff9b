"""Temporal merging by frame similarity: *Learning Free Token Reduction for Multi-Modal LLM* (arXiv 2501.17391)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from tokenlab.compressors import (
    BudgetUnit,
    GridReduction,
    GridView,
    Preference,
    Reduction,
    ReductionKind,
    budget,
    mean_segments,
    neighbour_cosine,
    segment_starts,
)


@dataclass(frozen=True, kw_only=True)
class Similarity(GridReduction, name="similarity"):
    """Averages runs of frames between the largest changes, measured as cosine distance."""

    positions: Literal["keep", "renumber"] = "renumber"
    paper: ClassVar[str] = "arXiv 2501.17391"
    venue: ClassVar[str] = "2025"
    licence: ClassVar[str] = "no code"
    prefers: ClassVar[tuple[Preference, ...]] = ("novelty",)
    kind: ClassVar[ReductionKind] = "merge"
    budget_unit: ClassVar[BudgetUnit] = "frames"
    temporal: ClassVar[bool] = True
    needs_full_grid: ClassVar[bool] = True
    leaves_full_grid: ClassVar[bool] = True

    def reduce_grid(self, view: GridView) -> Reduction:
        """Cuts where consecutive frames are least alike, position by position."""
        frames = view.tokens.as_frames().float()
        change = 1 - neighbour_cosine(frames).mean(dim=-1)
        starts = segment_starts(change, budget(self.retention_ratio, frames.shape[0]))
        return mean_segments(starts, *frames.shape[:2])
