"""Stage by stage: *PyramidDrop: Accelerating Your LVLMs via Pyramid Visual Redundancy Reduction* (CVPR 2025).

arXiv 2410.17247.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

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
class PyramidDrop(LayerReduction, name="pyramiddrop"):
    """Keeps, at the entry of a few layers, the visual tokens that the prompt's last token will attend to most there.

    Args:
        retention_ratio: Left behind the last cut; each cut leaves the same share of what the one before left.
        layers: At the entry of which of 32 layers tokens go.
        ratios: The authors' budget, where `retention_ratio` is `null`: what each cut leaves of all tokens.
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    separators: Separators = "keep"
    layers: Sequence[int] = (8, 16, 24)
    ratios: Sequence[float] = (0.5, 0.25, 0.125)
    paper: ClassVar[str] = "arXiv 2410.17247"
    venue: ClassVar[str] = "CVPR 2025"
    licence: ClassVar[str] = "MIT"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    has_native_budget: ClassVar[bool] = True
    attention: ClassVar[Evidence] = LayerAttention(layer="next")

    def __post_init__(self) -> None:
        """Refuses cuts without a budget."""
        super().__post_init__()
        if not self.layers or len(self.layers) != len(self.ratios):
            raise ValueError(
                f"ratios is {list(self.ratios)}, but must have one for each of the {len(self.layers)} layers"
            )

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """What the last cut leaves."""
        return self._left_by(self.ratios[-1], len(self.layers), sum(frame_sizes))

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """At the entry of each layer; in a shallow model several cuts become one."""
        return [(layer, "before_attention") for layer in self._cuts(num_layers)]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Keeps the top of the whole medium, in its order."""
        attention = view.from_last(self.attention)
        cut = self._cuts(view.num_layers)[view.layer]
        kept = self._left_by(self.ratios[cut - 1], cut, view.initial)
        return Reduction.keep(top(attention, kept), len(attention)), state

    def _cuts(self, num_layers: int) -> dict[int, int]:
        """By layer, the number of its cut, from 1."""
        return {scaled_layer(layer, 32, num_layers): cut for cut, layer in enumerate(self.layers, start=1)}

    def _left_by(self, native: float, cut: int, initial: int) -> int:
        if self.retention_ratio is None:
            return max(1, int(native * initial))
        return budget(self.retention_ratio ** (cut / len(self.layers)), initial)
