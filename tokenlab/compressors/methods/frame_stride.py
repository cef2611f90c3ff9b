"""Fewer frames, the control for temporal methods."""

from dataclasses import dataclass

from tokenlab.compressors import FrameSelection, FrameView, Reduction, budget, evenly_spaced


@dataclass(frozen=True, kw_only=True)
class FrameStride(FrameSelection, name="frame_stride"):
    """Shows the model fewer frames, evenly spread; the tower never sees the rest."""

    def select_frames(self, view: FrameView) -> Reduction:
        """Takes the middle frame of each of K equal parts."""
        return Reduction.keep(
            evenly_spaced(budget(self.retention_ratio, view.num_frames), view.num_frames), view.num_frames
        )
