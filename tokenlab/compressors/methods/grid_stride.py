"""A coarser sampling grid, the control for spatial pruning."""

from dataclasses import dataclass

from tokenlab.compressors import FramesView, FrameWise, Reduction, coarse_grid, evenly_spaced, in_medium


@dataclass(frozen=True, kw_only=True)
class GridStride(FrameWise, name="grid_stride"):
    """Keeps the tokens of every frame that lie on an evenly spaced grid, blind to what they show."""

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Takes the crossings of evenly spaced rows and columns."""
        (rows, columns), (frames, tokens, _) = view.grid, view.values.shape
        height, width = coarse_grid(self.retention_ratio, rows, columns)
        crossings = (evenly_spaced(height, rows)[:, None] * columns + evenly_spaced(width, columns)).flatten()
        return Reduction.keep(in_medium(crossings.expand(frames, -1), tokens), frames * tokens)
