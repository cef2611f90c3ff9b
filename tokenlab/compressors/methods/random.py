"""Random pruning, the control every method must beat."""

from dataclasses import dataclass

import torch

from tokenlab.compressors import FramesView, FrameWise, Reduction, top


@dataclass(frozen=True, kw_only=True)
class Random(FrameWise, name="random"):
    """Keeps as many tokens of each frame as a spatial method would, chosen by lot."""

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Draws a score for every token; a smaller budget keeps a subset of a larger one's choice."""
        scores = torch.rand(view.values.shape[:2], generator=view.generator)
        return view.keep(top(scores.to(view.values.device), view.budget))
