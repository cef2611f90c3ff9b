"""[CLS] attention: *[CLS] Attention is All You Need for Training-Free Visual Token Pruning* (FasterVLM, 2412.01818)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from tokenlab.compressors import (
    CountedTokens,
    Evidence,
    FramesView,
    Preference,
    Reduction,
    TowerAttention,
    top,
)


@dataclass(frozen=True, kw_only=True)
class FasterVlm(CountedTokens, name="fastervlm"):
    """Keeps the tokens of each frame or tile that [CLS] attends to most, and closes the gaps between them.

    Args:
        query: Who attends: `cls`; or `cls_or_mean`, which takes all patches in the mean where a tower has no [CLS].
    """

    positions: Literal["keep", "renumber"] = "renumber"
    tokens: int = 144
    query: Literal["cls", "cls_or_mean"] = "cls"
    paper: ClassVar[str] = "arXiv 2412.01818"
    venue: ClassVar[str] = "2024"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)

    @property
    def attention(self) -> Evidence:
        """The attention that patches receive in the tower's last layer but one."""
        return TowerAttention(layer=-2, query=self.query)

    def needs(self) -> frozenset[Evidence]:
        """That attention."""
        return frozenset({self.attention})

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Keeps the top of every tile, in raster order."""
        return view.keep(top(view.evidence[self.attention], self.count(view)))
