"""No visual token at all, the control that says what the questions give away by themselves."""

from dataclasses import dataclass
from typing import ClassVar

from tokenlab.compressors import BudgetUnit, GridReduction, GridView, Reduction, Separators


@dataclass(frozen=True, kw_only=True)
class Blind(GridReduction, name="blind"):
    """Shows the LLM the question alone, without a visual token, newline or marker of a frame."""

    retention_ratio: float | None = None
    separators: Separators = "drop"
    budget_unit: ClassVar[BudgetUnit] = "none"
    leaves_full_grid: ClassVar[bool] = True
    has_native_budget: ClassVar[bool] = True

    def kept(self, frame_sizes: list[int]) -> int | None:
        """None of them, unless it is off."""
        return sum(frame_sizes) if self.is_off else 0

    def reduce_grid(self, view: GridView) -> Reduction:
        """Keeps none."""
        return Reduction.keep(view.tokens.places.new_empty(0), view.tokens.num_tokens)
