"""Two cuts and a grid: *Feather the Throttle: Revisiting Visual Token Pruning for Vision-Language Model Acceleration*.

ICCV 2025, arXiv 2412.13180.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tokenlab.compressors import (
    Evidence,
    LayerAttention,
    LayerReduction,
    LayerView,
    Moment,
    Preference,
    Reduction,
    Separators,
    State,
    budget,
    scaled_layer,
    top,
)


@dataclass(frozen=True, kw_only=True)
class Feather(LayerReduction, name="feather"):
    """Keeps what the last token attends to without regard to positions, besides every few rows and columns at first.

    Args:
        retention_ratio: Left behind the second cut, exactly; the first one leaves the ratio's cube root, and the grid.
        layers: At the entry of which two of 32 layers tokens go; the attention of the one before ranks them.
        share: The authors' budget, where `retention_ratio` is `null`: what the first cut leaves besides the grid; the
            second leaves its square of that.
        stride: Rows and columns from one token of the grid to the next.
    """

    retention_ratio: float | None = None
    separators: Separators = "keep"
    layers: Sequence[int] = (8, 16)
    share: float = 0.3
    stride: int = 3
    paper: ClassVar[str] = "arXiv 2412.13180"
    venue: ClassVar[str] = "ICCV 2025"
    licence: ClassVar[str] = "MIT"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    has_native_budget: ClassVar[bool] = True
    attention: ClassVar[Evidence] = LayerAttention(rotary=False)

    def __post_init__(self) -> None:
        """Refuses an impossible share or stride."""
        super().__post_init__()
        self.check_shares("share")
        if len(self.layers) != 2:
            raise ValueError(f"layers is {list(self.layers)}, but must be two")
        self.check_counts("stride")

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """At the entry of both layers, which in a shallow model are one."""
        first, second = (scaled_layer(layer, 32, num_layers) for layer in self.layers)
        return [(layer, "before_attention") for layer in dict.fromkeys((first, second))]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Ranks the medium's tokens by what the last token pays each of them, if it pays no other."""
        attention = view.evidence[self.attention].received(view.last, among=view.visual)
        total, ratio = len(attention), self.retention_ratio
        if (view.layer, view.moment) == self.points(view.num_layers)[-1]:
            kept = int(self.share**2 * total) if ratio is None else budget(ratio, view.initial)
            return Reduction.keep(top(attention, max(1, kept)), total), state
        kept = int(self.share * total) if ratio is None else budget(ratio ** (1 / 3), total)
        stays = (view.medium.places[:, 1:] % self.stride == 0).all(dim=1)
        stays[top(attention, kept)] = True
        return Reduction.keep(stays.nonzero()[:, 0], total), state
