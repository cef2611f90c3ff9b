"""Evenly spaced frames, from the first to the last: what LLaVA-NeXT and lmms-eval show of a video."""

from dataclasses import dataclass

import torch

from tokenlab.compressors import CountedFrames, FrameView, Reduction


@dataclass(frozen=True, kw_only=True)
class Uniform(CountedFrames, name="uniform"):
    """Shows the model evenly spaced frames, the first and the last among them; the tower never sees the rest.

    Args:
        frames: Where `retention_ratio` is `null`, how many; all of a shorter video.
    """

    def select_frames(self, view: FrameView) -> Reduction:
        """Rounds even steps from the first frame to the last down to frames."""
        count = self.count(view.num_frames)
        steps = torch.arange(count) * (view.num_frames - 1) // max(1, count - 1)
        return Reduction.keep(steps, view.num_frames)
