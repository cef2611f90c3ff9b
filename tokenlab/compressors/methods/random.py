"""Random pruning, the control every method must beat."""

from dataclasses import dataclass

import torch

from tokenlab.compressors import GridReduction, GridView, Reduction, budget, top_per_frame


@dataclass(frozen=True, kw_only=True)
class Random(GridReduction, name="random"):
    """Keeps as many tokens of each frame as a spatial method would, chosen by lot."""

    def reduce_grid(self, view: GridView) -> Reduction:
        """Draws a score for every token; a smaller budget keeps a subset of a larger one's choice."""
        tokens = view.tokens
        scores = torch.rand(tokens.num_tokens, generator=view.generator).to(tokens.values.device)
        keep = budget(self.retention_ratio, tokens.tokens_per_frame)
        return Reduction.keep(top_per_frame(scores, tokens.frame, keep), tokens.num_tokens)
