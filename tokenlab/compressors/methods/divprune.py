"""Diversity: *DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models* (CVPR 2025, 2503.02175)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch.nn.functional import normalize

from tokenlab.compressors import (
    BudgetUnit,
    GridReduction,
    GridView,
    Preference,
    Reduction,
    budget,
    max_min,
)


@dataclass(frozen=True, kw_only=True)
class DivPrune(GridReduction, name="divprune"):
    """Keeps the tokens of a medium that are most unlike one another, each as far as can be from those before it."""

    retention_ratio: float = 0.098
    positions: Literal["keep", "renumber"] = "renumber"
    paper: ClassVar[str] = "arXiv 2503.02175"
    venue: ClassVar[str] = "CVPR 2025"
    licence: ClassVar[str] = "CC-BY-NC-4.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("diversity",)
    budget_unit: ClassVar[BudgetUnit] = "medium"
    all_pairs: ClassVar[bool] = True

    def reduce_grid(self, view: GridView) -> Reduction:
        """Chooses by max-min distance, where distance is 1 - cosine."""
        tokens = view.tokens.num_tokens
        unit = normalize(view.tokens.values.float(), dim=-1)
        return Reduction.keep(max_min(unit, budget(self.retention_ratio, tokens)), tokens)
