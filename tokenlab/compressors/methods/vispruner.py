"""Importance, then diversity: *Beyond Text-Visual Attention: Exploiting Visual Cues for Token Pruning in VLMs*.

ICCV 2025 (VisPruner), arXiv 2412.01818, second version.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors import (
    CountedTokens,
    Evidence,
    FramesView,
    Preference,
    Reduction,
    TowerAttention,
    TowerFeatures,
    top,
)

STEP = 8
"""Tokens that go between two comparisons."""


@dataclass(frozen=True, kw_only=True)
class VisPruner(CountedTokens, name="vispruner"):
    """Keeps the tokens of each frame that [CLS] attends to most, and of the rest those that repeat no other.

    Args:
        important: The share of a frame's budget that attention chooses.
    """

    positions: Literal["keep", "renumber"] = "renumber"
    tokens: int = 144
    important: float = 0.5
    paper: ClassVar[str] = "arXiv 2412.01818"
    venue: ClassVar[str] = "ICCV 2025"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    attention: ClassVar[Evidence] = TowerAttention(layer=-2, query="cls_or_mean")
    features: ClassVar[Evidence] = TowerFeatures(layer=-2)

    def __post_init__(self) -> None:
        """Refuses a share that is none."""
        super().__post_init__()
        if not 0 <= self.important <= 1:
            raise ValueError(f"important is {self.important}, but must be from 0 to 1")

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Takes the most important tokens first; then duplicates go, a few at a time."""
        attention, unit = view.evidence[self.attention], normalize(view.evidence[self.features].float(), dim=-1)
        by_attention = attention.argsort(dim=-1, descending=True, stable=True)
        important = int(self.count(view) * self.important)
        diverse = without_duplicates(by_attention[:, important:], unit @ unit.mT, self.count(view) - important)
        return view.keep(torch.cat([top(attention, important), diverse], dim=1).sort(dim=1).values)


def without_duplicates(
    rest: Int[Tensor, "t r"], likeness: Float[Tensor, "t n n"], count: int
) -> Int[Tensor, "t count"]:
    """Drops tokens of a list until so many are left: each time, of every second one, those most like some other.

    The order of the list, which decides who is compared with whom, becomes the authors': survivors of the compared
    ones, the most similar first, and then the others.
    """
    if count == 0:
        return rest[:, :0]
    frame = torch.arange(len(rest), device=rest.device)[:, None, None]
    while rest.shape[1] > count:
        even, odd = rest[:, ::2], rest[:, 1::2]
        most = likeness[frame, even[:, :, None], odd[:, None]].amax(dim=-1)
        stays = most.argsort(dim=-1, descending=True, stable=True)[:, min(STEP, rest.shape[1] - count) :]
        # Released code fails where the list has an odd length; we go on in the same way
        rest = torch.cat([even.gather(1, stays), odd], dim=1)
    return rest
