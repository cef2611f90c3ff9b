"""Budgets for tiles: *HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution VLMs*.

AAAI 2025, arXiv 2408.10945.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tokenlab.compressors import (
    BudgetUnit,
    Evidence,
    GridReduction,
    GridView,
    Preference,
    Reduction,
    TowerAttention,
    top,
    top_per_frame,
)


@dataclass(frozen=True, kw_only=True)
class HiRed(GridReduction, name="hired"):
    """Keeps what [CLS] attends to most in each tile, more where it attends to that part of the whole at first.

    Args:
        alpha: The share of the budget for the tile that shows the whole image; all that there is for an image of one.
    """

    retention_ratio: float = 0.2
    positions: Literal["keep", "renumber"] = "renumber"
    alpha: float = 0.5
    paper: ClassVar[str] = "arXiv 2408.10945"
    venue: ClassVar[str] = "AAAI 2025"
    licence: ClassVar[str] = "MIT"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    budget_unit: ClassVar[BudgetUnit] = "medium"
    data_decides: ClassVar[bool] = True  # how the budget falls on tiles
    early: ClassVar[Evidence] = TowerAttention(layer=0, query="cls")
    late: ClassVar[Evidence] = TowerAttention(layer=-2, query="cls")

    def __post_init__(self) -> None:
        """Refuses a share that is none."""
        super().__post_init__()
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}, but must be greater than 0 and less than 1")

    def reduce_grid(self, view: GridView) -> Reduction:
        """The whole image first; then every tile by its share."""
        tokens, late = view.tokens, view.evidence[self.late]
        size = tokens.tiles.bincount()
        if tokens.thumbnail is None:  # each picture by itself
            count = (size * self.retention_ratio * self.alpha).long().clamp(min=1)
            return Reduction.keep(top_per_frame(late, tokens.tiles, count), tokens.num_tokens)
        total = max(1, int(tokens.num_tokens * self.retention_ratio))
        whole = min(max(1, int(total * self.alpha)), int(size[tokens.thumbnail]))
        count = torch.zeros_like(size)
        crops = size.index_fill(0, size.new_tensor([tokens.thumbnail]), 0).nonzero()[:, 0]
        share = self._shares(view.evidence[self.early][tokens.tiles == tokens.thumbnail], len(crops))
        count[crops] = torch.minimum((share * min(total - whole, int(size[crops].sum()))).long(), size[crops])
        count[tokens.thumbnail] = whole
        return Reduction.keep(top_per_frame(late, tokens.tiles, count), tokens.num_tokens)

    def _shares(self, early: Float[Tensor, " n"], crops: int) -> Float[Tensor, " crops"]:
        """Each crop's share of the most attended tokens of the whole image."""
        marked = top(early, max(1, int(len(early) * (1 - self.alpha))))
        # Paper: the crops' parts of the image; released code, which we follow, cuts its rows into runs of one length
        return (marked * crops // len(early)).bincount(minlength=crops) / len(marked)
