"""Similarity and events: *ST-SimDiff: Balancing Spatiotemporal Similarity and Difference for Efficient Video MLLMs*.

ICLR 2026.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors import (
    BudgetUnit,
    Evidence,
    LayerAttention,
    LayerReduction,
    LayerView,
    Moment,
    Preference,
    Reduction,
    Separators,
    State,
    components,
    rank_within,
    share_to_go,
    top,
)


@dataclass(frozen=True, kw_only=True)
class StSimDiff(LayerReduction, name="st_simdiff"):
    """Drops from groups of like tokens those least like their group, but for events, and then ranks by attention.

    Args:
        cost: The share of tokens that the layers read on average.
        similarity: Cosine from which neighbours in space or time are alike.
        event: Cosine with the same place in the frame before below which a token is an event, and stays.
    """

    retention_ratio: float | None = None
    separators: Separators = "keep"
    cost: float = 0.3
    similarity: float = 0.8
    event: float = 0.2
    paper: ClassVar[str] = "ST-SimDiff"
    venue: ClassVar[str] = "ICLR 2026"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("novelty", "attention")
    budget_unit: ClassVar[BudgetUnit] = "none"
    has_native_budget: ClassVar[bool] = True
    temporal: ClassVar[bool] = True
    needs_full_grid: ClassVar[bool] = True
    attention: ClassVar[Evidence] = LayerAttention()

    def __post_init__(self) -> None:
        """Refuses an impossible cost."""
        super().__post_init__()
        self.check_shares("cost")

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Before the first layer, and between its attention and its MLP."""
        return [(0, "before_attention"), (0, "after_attention")]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Drops likeness first; then attention makes the budget."""
        tokens, share = len(view.visual), len(view.visual) / view.initial
        if view.moment == "before_attention":
            most = 1 - share_to_go(self.cost, 0.0, share, view.num_layers, view.num_layers)
            return Reduction.keep((~self._repetitive(view, most)).nonzero()[:, 0], tokens), state
        stays = share_to_go(self.cost, share, share, view.num_layers, view.num_layers - 1)
        attention = view.from_last(self.attention)
        return Reduction.keep(top(attention, max(1, round(stays * tokens))), tokens), state

    def _repetitive(self, view: LayerView, most: float) -> Bool[Tensor, " n"]:
        """Which tokens go: at most such a share of all, group after group, the most alike first."""
        frames, rows, columns = view.tokens.as_frames().shape[0], *view.medium.grid[1:]
        unit = normalize(view.tokens.values.float(), dim=-1)
        group, before = like_groups(unit.unflatten(0, (frames, rows, columns)), self.similarity)
        size = group.bincount(minlength=len(group))
        total = torch.zeros_like(unit).index_add(0, group, unit)
        likeness = (unit * total[group]).sum(dim=-1) / size[group]  # of each token to its group
        pairs = total.square().sum(dim=-1) - size
        alike = torch.where(size > 1, pairs / (size * (size - 1)).clamp(min=1), -torch.inf)
        # Paper: like tokens are merged; released code, which we follow, drops those least like their group
        take = torch.where(size > 1, (size.double() * most).ceil().long(), 0)
        goes = (rank_within(likeness, group) < take[group]) & ~(before < self.event)
        lost = torch.zeros_like(size).index_add(0, group, goes.long())
        order = alike.argsort(descending=True, stable=True)
        # ... and ends with the first group that would go beyond the share if it had no events
        fits = lost[order].cumsum(0) - lost[order] + take[order] <= most * len(group)
        within = torch.zeros_like(goes)
        within[order] = fits.cumprod(0).bool()
        return goes & within[group]


def like_groups(unit: Float[Tensor, "t h w d"], similarity: float) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Groups tokens that a chain of like neighbours links; and each token's cosine with the one before it in time.

    It is plus infinity in the first frame. Tokens have the length 1.
    """
    number = torch.arange(unit[..., 0].numel(), device=unit.device).reshape(unit.shape[:3])
    edges = []
    for axis in range(3):
        first, second = (slice(None),) * axis + (slice(-1),), (slice(None),) * axis + (slice(1, None),)
        cosine = (unit[first] * unit[second]).sum(dim=-1)
        alike = cosine >= similarity if axis == 0 else cosine > similarity
        edges.append(torch.stack([number[first][alike], number[second][alike]], dim=1))
    before = torch.full_like(unit[..., 0], torch.inf)
    before[1:] = (unit[1:] * unit[:-1]).sum(dim=-1)
    return components(torch.cat(edges), number.numel()), before.flatten()
