"""A scheme of removals: *Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal LLMs* (AAAI 2025).

arXiv 2409.10197.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tokenlab.compressors import (
    BudgetUnit,
    Evidence,
    LayerAttention,
    LayerReduction,
    LayerView,
    Moment,
    Observed,
    Preference,
    Reduction,
    Separators,
    State,
    fitted_scheme,
    top,
)


@dataclass(frozen=True, kw_only=True)
class FitPrune(LayerReduction, name="fitprune"):
    """Drops, layer by layer as a scheme says, the visual tokens that neither text nor other visual tokens attend to.

    Args:
        scheme: The share of a medium's tokens that goes in each layer of the LLM; `tokenlab calibrate fitprune` finds a
            model's. Over a model of another depth it is stretched.
    """

    retention_ratio: float | None = None
    separators: Separators = "keep"
    scheme: Sequence[float] | None = None
    paper: ClassVar[str] = "arXiv 2409.10197"
    venue: ClassVar[str] = "AAAI 2025"
    licence: ClassVar[str] = "that of the model it is built on"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    budget_unit: ClassVar[BudgetUnit] = "none"
    has_native_budget: ClassVar[bool] = True
    attention: ClassVar[Evidence] = LayerAttention()

    def __post_init__(self) -> None:
        """Refuses no scheme, and one that leaves nothing."""
        super().__post_init__()
        if self.scheme is None and not self.is_off:
            raise ValueError("scheme is null, but it is a model's own: tokenlab calibrate fitprune finds it")
        if self.scheme and (min(self.scheme) < 0 or sum(self.scheme) >= 1):
            raise ValueError(f"scheme is {list(self.scheme)}, but its shares must be at least 0 and sum to less than 1")

    @classmethod
    def example(cls, ratio: float = 0.5) -> FitPrune:
        """Drops as much in each of two halves of the layers."""
        return cls(scheme=((1 - ratio) / 2,) * 2)

    @classmethod
    def fitted(cls, observed: Sequence[Observed], retention: float) -> FitPrune:
        """Builds one by what tokens receive in the layers of a model, so that its layers read this share on average."""
        return cls(scheme=tuple(fitted_scheme(observed, retention)))

    @classmethod
    def look(cls, view: LayerView) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """What the text pays each visual token, in its strongest head, and what visual tokens pay it."""
        received = partial(view.evidence[cls.attention].received, heads="max", over="sum")
        return received(view.question)[view.visual], received(view.visual)[view.visual]

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """What the whole scheme leaves."""
        total = sum(frame_sizes)
        return total if self.scheme is None else self._left(total, len(self.scheme), len(self.scheme))

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Between attention and MLP of every layer in which tokens go."""
        return [(layer, "after_attention") for layer in range(num_layers) if self._gone(layer + 1, num_layers)]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Ranks by what the text pays times what visual tokens pay."""
        (by_text, by_visual), total = self.look(view), len(view.visual)
        kept = min(total, self._left(view.initial, view.layer + 1, view.num_layers))
        return Reduction.keep(top(by_text * by_visual, kept), total), state

    def _gone(self, layers: int, num_layers: int) -> float:
        """The share that is gone after so many layers of a model, in straight lines between the scheme's layers."""
        assert self.scheme is not None
        gone = [0.0, *accumulate(self.scheme)]
        whole, part = divmod(layers * len(self.scheme), num_layers)
        return gone[whole] + (self.scheme[whole] * part / num_layers if part else 0.0)

    def _left(self, initial: int, layers: int, num_layers: int) -> int:
        return max(1, initial - round(self._gone(layers, num_layers) * initial))
