"""Evenly spaced frames, from the first to the last: what LLaVA-NeXT and lmms-eval show of a video."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from tokenlab.compressors import FrameSelection, FrameView, Reduction, budget


@dataclass(frozen=True, kw_only=True)
class Uniform(FrameSelection, name="uniform"):
    """Shows the model evenly spaced frames, the first and the last among them; the tower never sees the rest.

    Args:
        frames: Where `retention_ratio` is `null`, how many; all of a shorter video.
    """

    retention_ratio: float | None = None
    frames: int = 32
    has_native_budget: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses an empty budget."""
        super().__post_init__()
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}, but must be at least 1")

    def count(self, candidates: int) -> int:
        """How many of so many candidates are shown."""
        if self.retention_ratio is None:
            return min(self.frames, candidates)
        return budget(self.retention_ratio, candidates)

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """Whole frames."""
        return self.count(len(frame_sizes)) * frame_sizes[0]

    def select_frames(self, view: FrameView) -> Reduction:
        """Rounds even steps from the first frame to the last down to frames."""
        count = self.count(view.num_frames)
        steps = torch.arange(count) * (view.num_frames - 1) // max(1, count - 1)
        return Reduction.keep(steps, view.num_frames)
