"""A coarser sampling grid, the control for spatial pruning."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from tokenlab.compressors.base import GridReduction, GridView
from tokenlab.functional import coarse_grid, spread
from tokenlab.tensors import Reduction


@dataclass(frozen=True, kw_only=True)
class GridStride(GridReduction, name="grid_stride"):
    """Keeps the tokens of every frame that lie on an evenly spread grid, blind to what they show."""

    needs_full_grid: ClassVar[bool] = True

    def reduce_grid(self, view: GridView) -> Reduction:
        """Takes the crossings of evenly spread rows and columns."""
        _, rows, columns = view.tokens.grid
        height, width = coarse_grid(self.retention_ratio, rows, columns)
        crossings = spread(height, rows)[:, None] * columns + spread(width, columns)
        frames = view.tokens.as_frames().shape[0]
        index = torch.arange(frames)[:, None] * rows * columns + crossings.flatten()
        return Reduction.keep(index.flatten().to(view.tokens.values.device), view.tokens.num_tokens)
