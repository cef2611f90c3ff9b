"""Average pooling, the control for spatial merging: what a lower resolution would give."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokenlab.compressors.base import GridReduction, GridView
from tokenlab.functional import coarse_grid, spread
from tokenlab.tensors import Reduction


@dataclass(frozen=True, kw_only=True)
class Pool(GridReduction, name="pool"):
    """Averages the cells of an evenly divided grid, frame by frame; a cell stands at its middle token."""

    needs_full_grid: ClassVar[bool] = True

    def reduce_grid(self, view: GridView) -> Reduction:
        """Every token goes to exactly one cell, with the weight 1 / tokens of the cell."""
        _, rows, columns = view.tokens.grid
        height, width = coarse_grid(self.retention_ratio, rows, columns)
        cell_row, cell_column = torch.arange(rows) * height // rows, torch.arange(columns) * width // columns
        cell = (cell_row[:, None] * width + cell_column).flatten()
        middle = (spread(height, rows)[:, None] * columns + spread(width, columns)).flatten()
        frames, tokens = view.tokens.as_frames().shape[:2]
        first = torch.arange(frames)[:, None]
        weight = (1.0 / torch.bincount(cell))[cell].repeat(frames)
        merged = Reduction.merge(
            anchor=(first * tokens + middle).flatten(),
            slot=(first * height * width + cell).flatten(),
            member=torch.arange(frames * tokens),
            weight=weight,
            num_inputs=frames * tokens,
        )
        return merged.to(view.tokens.values.device)
