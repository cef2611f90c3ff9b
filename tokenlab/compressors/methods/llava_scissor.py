"""Connected components: *LLaVA-Scissor: Token Compression with Semantic Connected Components for Video LLMs*.

arXiv 2506.21862.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors import (
    BudgetUnit,
    GridReduction,
    GridView,
    Preference,
    Reduction,
    ReductionKind,
    components,
    means,
)


@dataclass(frozen=True, kw_only=True)
class LlavaScissor(GridReduction, name="llava_scissor"):
    """Averages groups of like tokens, in each frame and then over all, and adds each token to what is most like it.

    Args:
        tau: Cosine above which two tokens are linked; groups are what links connect.
        epsilon: How exact groups are: links of at most ln(n) / epsilon^2 tokens are looked at, drawn by lot.
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    tau: float = 0.9
    epsilon: float = 0.05
    paper: ClassVar[str] = "arXiv 2506.21862"
    venue: ClassVar[str] = "2025"
    licence: ClassVar[str] = "none found"
    prefers: ClassVar[tuple[Preference, ...]] = ("diversity",)
    kind: ClassVar[ReductionKind] = "merge"
    order: ClassVar[Literal["raster", "rank"]] = "rank"
    budget_unit: ClassVar[BudgetUnit] = "none"
    has_native_budget: ClassVar[bool] = True
    all_pairs: ClassVar[bool] = True

    def reduce_grid(self, view: GridView) -> Reduction:
        """Groups in space, groups over time, then all tokens gathered in what is left."""
        values, frame = view.tokens.values.float(), view.tokens.frame
        frames = [(frame == number).nonzero()[:, 0] for number in frame.unique().tolist()]
        in_space = Reduction.cat(
            [(self._groups(values[index], view.generator), index) for index in frames], len(values)
        )
        over_time = self._groups(in_space.apply(values), view.generator)
        return gathered(in_space.then(over_time), values)

    def _groups(self, values: Float[Tensor, "n d"], generator: torch.Generator) -> Reduction:
        """The mean of each group, in the order of their tokens with the most links."""
        total = len(values)
        looked_at = min(total, math.ceil(math.log(total) / self.epsilon**2)) if total > 1 else total
        drawn = torch.arange(total) if looked_at == total else torch.randperm(total, generator=generator)[:looked_at]
        unit = normalize(values, dim=-1)
        drawn = drawn.to(unit.device)
        linked = unit[drawn] @ unit.mT > self.tau
        edges = linked.nonzero()
        group = components(torch.stack([drawn[edges[:, 0]], edges[:, 1]], dim=1), total)
        links = edges[:, 1].bincount(minlength=total)
        by_links = links.argsort(descending=True, stable=True)
        first = by_links[group[by_links].argsort(stable=True)]  # group by group, the most links first
        starts = torch.cat([first.new_ones(1).bool(), group[first].diff() != 0]) if total else first.bool()
        centre, order = first[starts].sort()
        label = order.argsort()[group.unique(return_inverse=True)[1]]
        return means(centre, label)


def gathered(left: Reduction, values: Float[Tensor, "n d"], rows: int = 1024) -> Reduction:
    """Averages each slot with all tokens that are more like it than like any other slot."""
    slots = normalize(left.apply(values), dim=-1)
    nearest = torch.cat([(normalize(part, dim=-1) @ slots.mT).argmax(dim=1) for part in values.split(rows)])
    share = 1 / (1 + nearest.bincount(minlength=left.num_outputs).float())
    whole = (left.lengths == 0).nonzero()[:, 0]
    own = torch.arange(left.num_outputs, device=nearest.device).repeat_interleave(left.lengths)
    slot = torch.cat([own, whole, nearest])
    member = torch.cat([left.member, left.anchor[whole], torch.arange(len(values), device=nearest.device)])
    weight = torch.cat([left.weight, torch.ones_like(whole).float(), torch.ones_like(nearest).float()])
    return Reduction.merge(left.anchor, slot, member, weight * share[slot], len(values))
