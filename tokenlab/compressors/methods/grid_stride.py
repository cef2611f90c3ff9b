"""A coarser sampling grid, the control for spatial pruning."""

from dataclasses import dataclass
from typing import ClassVar

from tokenlab.compressors import FramesView, FrameWise, Reduction, cells


@dataclass(frozen=True, kw_only=True)
class GridStride(FrameWise, name="grid_stride"):
    """Keeps the tokens of every frame that lie on an evenly spaced grid, blind to what they show."""

    needs_full_grid: ClassVar[bool] = True

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Takes the middle token of each cell."""
        _, middle = cells(view.budget, *view.grid)
        return view.keep(middle.expand(len(view.values), -1))
