"""Novelty: *Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference* (2510.14624)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from tokenlab.compressors import (
    BudgetUnit,
    GridReduction,
    GridView,
    Preference,
    Reduction,
    neighbour_cosine,
    top,
)


@dataclass(frozen=True, kw_only=True)
class Evs(GridReduction, name="evs"):
    """Keeps, of the whole video, the tokens least like those in the same place of the frame before."""

    paper: ClassVar[str] = "arXiv 2510.14624"
    venue: ClassVar[str] = "2025"
    licence: ClassVar[str] = "Apache-2.0, with a notice of NVIDIA"
    prefers: ClassVar[tuple[Preference, ...]] = ("novelty",)
    budget_unit: ClassVar[BudgetUnit] = "medium"
    temporal: ClassVar[bool] = True
    needs_full_grid: ClassVar[bool] = True

    def kept(self, frame_sizes: Sequence[int]) -> int:
        """Rounded down, and never less than the first frame, which always stays."""
        return max(frame_sizes[0], int(self.retention_ratio * sum(frame_sizes)))

    def reduce_grid(self, view: GridView) -> Reduction:
        """Ranks all tokens by novelty; those of the first frame come before all others."""
        # Paper: differences of pixels; released code (an engine's), which we follow, compares embeddings
        frames = view.tokens.as_frames().float()
        total, tokens = frames.shape[:2]
        first = torch.full((1, tokens), torch.inf, device=frames.device)
        novelty = torch.cat([first, 1 - neighbour_cosine(frames)]).flatten()
        return Reduction.keep(top(novelty, self.kept([tokens] * total)), total * tokens)
