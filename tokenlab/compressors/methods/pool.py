"""Average pooling, the control for spatial merging: what a lower resolution would give."""

from dataclasses import dataclass
from typing import ClassVar

from tokenlab.compressors import FramesView, FrameWise, Reduction, cells, in_medium, means


@dataclass(frozen=True, kw_only=True)
class Pool(FrameWise, name="pool"):
    """Averages the cells of an evenly divided grid, frame by frame; a cell stands at its middle token."""

    needs_full_grid: ClassVar[bool] = True

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Every token goes to exactly one cell."""
        frames, tokens = view.values.shape[:2]
        label, middle = cells(view.budget, *view.grid)
        return means(
            anchor=in_medium(middle.expand(frames, -1), tokens),
            label=in_medium(label.expand(frames, -1), view.budget),
        )
