"""[CLS] attention: *[CLS] Attention is All You Need for Training-Free Visual Token Pruning* (FasterVLM, 2412.01818)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from tokenlab.compressors import Evidence, FramesView, FrameWise, Reduction, TowerAttention, top


@dataclass(frozen=True, kw_only=True)
class FasterVlm(FrameWise, name="fastervlm"):
    """Keeps the tokens of each frame or tile that [CLS] attends to most, and closes the gaps between them.

    Args:
        tokens: The authors' budget: tokens of a tile, where `retention_ratio` is `null`.
        query: Who attends: `cls`; or `cls_or_mean`, which takes all patches in the mean where a tower has no [CLS].
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    tokens: int = 144
    query: Literal["cls", "cls_or_mean"] = "cls"
    paper: ClassVar[str] = "arXiv 2412.01818"
    has_native_budget: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses an empty budget."""
        super().__post_init__()
        if self.tokens < 1:
            raise ValueError(f"tokens is {self.tokens}, but must be at least 1")

    @property
    def attention(self) -> Evidence:
        """The attention that patches receive in the tower's last layer but one."""
        return TowerAttention(layer=-2, query=self.query)

    def needs(self) -> frozenset[Evidence]:
        """That attention."""
        return frozenset({self.attention})

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """The authors' count of each tile, where no ratio is given."""
        if self.retention_ratio is not None:
            return super().kept(frame_sizes)
        return sum(min(size, self.tokens) for size in frame_sizes)

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Keeps the top of every tile, in raster order."""
        keep = view.budget if self.retention_ratio is not None else self.tokens
        return view.keep(top(view.evidence[self.attention], keep))
