"""Spatial pruning by [CLS] attention: *Learning Free Token Reduction for Multi-Modal LLM* (arXiv 2501.17391)."""

from dataclasses import dataclass
from typing import ClassVar

from tokenlab.compressors.base import GridReduction, GridView
from tokenlab.compressors.evidence import TowerAttention
from tokenlab.functional import budget, top_per_frame
from tokenlab.tensors import Evidence, Reduction


@dataclass(frozen=True, kw_only=True)
class Topic(GridReduction, name="topic"):
    """Keeps the tokens of each frame that [CLS] attends to most in the tower's last-but-one layer."""

    paper: ClassVar[str] = "arXiv 2501.17391"
    attention: ClassVar[Evidence] = TowerAttention(layer=-2, query="cls_or_mean")

    def needs(self) -> frozenset[Evidence]:
        """The attention that tokens receive in the tower."""
        return frozenset({self.attention})

    def reduce_grid(self, view: GridView) -> Reduction:
        """Keeps the top of every frame, in raster order."""
        keep = budget(self.retention_ratio, view.tokens.tokens_per_frame)
        index = top_per_frame(view.evidence[self.attention], view.tokens.frame, keep)
        return Reduction.keep(index, view.tokens.num_tokens)
