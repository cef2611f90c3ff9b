"""Text alone from some layer on: *Boosting Multimodal LLMs with Visual Tokens Withdrawal* (AAAI 2025, 2405.05803)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tokenlab.compressors import (
    BudgetUnit,
    LayerReduction,
    LayerView,
    Moment,
    Reduction,
    Separators,
    State,
    scaled_layer,
)


@dataclass(frozen=True, kw_only=True)
class Vtw(LayerReduction, name="vtw"):
    """Withdraws all visual tokens at the entry of a layer of the LLM, newlines and markers of frames with them.

    Args:
        layer: Of 32 layers, the first that reads text alone.
    """

    retention_ratio: float | None = None
    separators: Separators = "drop"
    layer: int = 15
    paper: ClassVar[str] = "arXiv 2405.05803"
    venue: ClassVar[str] = "AAAI 2025"
    licence: ClassVar[str] = "none found"
    budget_unit: ClassVar[BudgetUnit] = "none"
    has_native_budget: ClassVar[bool] = True

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """None of them, unless it is off."""
        return sum(frame_sizes) if self.is_off else 0

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Once, at the entry of the layer."""
        return [(scaled_layer(self.layer, 32, num_layers), "before_attention")]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Keeps none."""
        return Reduction.keep(view.visual[:0], view.visual.shape[0]), state
