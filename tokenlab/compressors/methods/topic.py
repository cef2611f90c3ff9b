"""Spatial pruning by [CLS] attention: *Learning Free Token Reduction for Multi-Modal LLM* (arXiv 2501.17391)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from tokenlab.compressors import (
    Evidence,
    FramesView,
    FrameWise,
    PoolingAttention,
    Preference,
    Reduction,
    TowerAttention,
    top,
)


@dataclass(frozen=True, kw_only=True)
class Topic(FrameWise, name="topic"):
    """Keeps the tokens of each frame that [CLS] attends to most in the tower's last-but-one layer.

    Args:
        query: Who attends: `cls`, or where a tower has no [CLS] all its patches in the mean; `pooling`, the pooling
            head of a SigLIP tower, which `model.mllm.auxiliary` must name.
    """

    query: Literal["cls", "pooling"] = "cls"
    paper: ClassVar[str] = "arXiv 2501.17391"
    venue: ClassVar[str] = "2025"
    licence: ClassVar[str] = "no code"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)

    @property
    def attention(self) -> Evidence:
        """The attention that tokens receive in the tower, or behind it."""
        return PoolingAttention() if self.query == "pooling" else TowerAttention(layer=-2, query="cls_or_mean")

    def needs(self) -> frozenset[Evidence]:
        """That attention."""
        return frozenset({self.attention})

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Keeps the top of every frame, in raster order."""
        return view.keep(top(view.evidence[self.attention], view.budget))
