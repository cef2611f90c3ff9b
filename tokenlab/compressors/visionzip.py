"""Dominant and contextual tokens: *VisionZip: Longer is Better but Not Necessary* (CVPR 2025, 2412.04467)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors.base import GridReduction, GridView
from tokenlab.compressors.evidence import TowerAttention, TowerKeys
from tokenlab.functional import budget, top
from tokenlab.tensors import Evidence, Reduction


@dataclass(frozen=True, kw_only=True)
class VisionZip(GridReduction, name="visionzip"):
    """Keeps what [CLS] attends to and sums up the rest of each frame in a few evenly spread tokens.

    Args:
        dominant: Tokens of a frame that stay as they are; the authors' number counts [CLS], which the token grid does
            not hold: one more patch takes its place.
        contextual: Tokens of a frame that gather the others. With a `retention_ratio`, only the proportion of the two
            counts; with `null` they are the budget.
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    dominant: int = 54
    contextual: int = 10
    paper: ClassVar[str] = "arXiv 2412.04467"
    needs_full_grid: ClassVar[bool] = True
    has_native_budget: ClassVar[bool] = True
    merges_before_projector: ClassVar[bool] = True
    attention: ClassVar[Evidence] = TowerAttention(layer=-2, query="cls_or_mean")
    keys: ClassVar[Evidence] = TowerKeys(layer=-2)

    def __post_init__(self) -> None:
        """Refuses a split that leaves nothing."""
        super().__post_init__()
        if self.dominant < 1 or self.contextual < 0:
            raise ValueError(f"dominant is {self.dominant} and contextual {self.contextual}: at least 1 and 0")

    def needs(self) -> frozenset[Evidence]:
        """Attention and keys of the tower's last layer but one."""
        return frozenset({self.attention, self.keys})

    def reduce_grid(self, view: GridView) -> Reduction:
        """Splits the budget of a frame and zips all frames at once."""
        frames, tokens = view.tokens.as_frames().shape[:2]
        dominant, contextual = self.dominant, self.contextual
        if self.retention_ratio is not None:
            total = budget(self.retention_ratio, tokens)
            dominant = max(1, total * dominant // (dominant + contextual))
            contextual = total - dominant
        scores = view.evidence[self.attention].reshape(frames, tokens)
        return zip_frames(scores, view.evidence[self.keys].reshape(frames, tokens, -1), dominant, contextual)


def zip_frames(scores: Float[Tensor, "t n"], keys: Float[Tensor, "t n e"], dominant: int, contextual: int) -> Reduction:
    """Each frame's `dominant` highest scores in raster order, and then its `contextual` tokens.

    A source with an infinite score, such as a [CLS] token listed first, always stays.
    """
    frames, tokens = scores.shape
    kept = top(scores, dominant)
    is_rest = torch.ones_like(scores, dtype=torch.bool).scatter(1, kept, False)
    rest = is_rest.nonzero()[:, 1].reshape(frames, -1)  # in raster order
    contextual = min(contextual, rest.shape[1])
    if contextual == 0:
        return Reduction.keep(_flat(kept, tokens).flatten(), frames * tokens)
    column = torch.arange(rest.shape[1], device=scores.device)
    stride = rest.shape[1] // contextual
    is_target = (column % stride == 0) & (column < contextual * stride)
    targets, others = rest[:, is_target], rest[:, ~is_target]
    keys = normalize(keys.float(), dim=-1)
    frame = torch.arange(frames, device=scores.device)[:, None]
    nearest = (keys[frame, others] @ keys[frame, targets].mT).argmax(dim=-1)
    assigned = torch.zeros_like(targets).scatter_add(1, nearest, torch.ones_like(nearest))
    # Paper: assigned tokens are merged into their target; released code, which we follow, adds their mean to it
    first = frame * (kept.shape[1] + contextual) + kept.shape[1]
    slots = torch.arange(contextual, device=scores.device)
    return Reduction.merge(
        anchor=_flat(torch.cat([kept, targets], dim=1), tokens).flatten(),
        slot=torch.cat([(first + slots).flatten(), (first + nearest).flatten()]),
        member=torch.cat([_flat(targets, tokens).flatten(), _flat(others, tokens).flatten()]),
        weight=torch.cat([scores.new_ones(targets.numel()), 1 / assigned.gather(1, nearest).flatten()]).float(),
        num_inputs=frames * tokens,
    )


def _flat(index: Tensor, tokens: int) -> Tensor:
    """Indices within each frame as indices into the medium."""
    return index + torch.arange(index.shape[0], device=index.device)[:, None] * tokens
