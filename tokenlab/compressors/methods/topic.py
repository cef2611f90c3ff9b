"""Spatial pruning by [CLS] attention: *Learning Free Token Reduction for Multi-Modal LLM* (arXiv 2501.17391)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from tokenlab.compressors import (
    Evidence,
    GridReduction,
    GridView,
    PoolingAttention,
    Reduction,
    TowerAttention,
    budget,
    top_per_frame,
)


@dataclass(frozen=True, kw_only=True)
class Topic(GridReduction, name="topic"):
    """Keeps the tokens of each frame that [CLS] attends to most in the tower's last-but-one layer.

    Args:
        query: Who attends: `cls`, or where a tower has no [CLS] all its patches in the mean; `pooling`, the pooling
            head of a SigLIP tower, which `model.mllm.auxiliary` must name.
    """

    query: Literal["cls", "pooling"] = "cls"
    paper: ClassVar[str] = "arXiv 2501.17391"

    @property
    def attention(self) -> Evidence:
        """The attention that tokens receive in the tower, or behind it."""
        return PoolingAttention() if self.query == "pooling" else TowerAttention(layer=-2, query="cls_or_mean")

    def needs(self) -> frozenset[Evidence]:
        """That attention."""
        return frozenset({self.attention})

    def reduce_grid(self, view: GridView) -> Reduction:
        """Keeps the top of every frame, in raster order."""
        keep = budget(self.retention_ratio, view.tokens.tokens_per_frame)
        index = top_per_frame(view.evidence[self.attention], view.tokens.frame, keep)
        return Reduction.keep(index, view.tokens.num_tokens)
