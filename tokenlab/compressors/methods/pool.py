"""Average pooling, the control for spatial merging: what a lower resolution would give."""

from dataclasses import dataclass

import torch

from tokenlab.compressors import FramesView, FrameWise, Reduction, coarse_grid, evenly_spaced, in_medium, means


@dataclass(frozen=True, kw_only=True)
class Pool(FrameWise, name="pool"):
    """Averages the cells of an evenly divided grid, frame by frame; a cell stands at its middle token."""

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Every token goes to exactly one cell."""
        (rows, columns), frames = view.grid, view.values.shape[0]
        height, width = coarse_grid(self.retention_ratio, rows, columns)
        row, column = torch.arange(rows) * height // rows, torch.arange(columns) * width // columns
        cell = (row[:, None] * width + column).flatten()
        middle = (evenly_spaced(height, rows)[:, None] * columns + evenly_spaced(width, columns)).flatten()
        return means(
            anchor=in_medium(middle.expand(frames, -1), rows * columns),
            label=in_medium(cell.expand(frames, -1), height * width),
        )
