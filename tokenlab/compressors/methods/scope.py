"""Saliency and coverage: *SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs*.

NeurIPS 2025, arXiv 2510.24214.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch.nn.functional import normalize

from tokenlab.compressors import (
    CountedTokens,
    Evidence,
    FramesView,
    Preference,
    Reduction,
    TowerAttention,
    TowerFeatures,
)


@dataclass(frozen=True, kw_only=True)
class Scope(CountedTokens, name="scope"):
    """Keeps, one by one, the token of each frame that covers most of what is not covered yet, weighed by attention.

    Args:
        alpha: The power to which attention is raised; 0 leaves it out.
    """

    positions: Literal["keep", "renumber"] = "renumber"
    tokens: int = 64
    alpha: float = 1.0
    paper: ClassVar[str] = "arXiv 2510.24214"
    venue: ClassVar[str] = "NeurIPS 2025"
    licence: ClassVar[str] = "none found"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    attention: ClassVar[Evidence] = TowerAttention(layer=-2, query="cls")
    features: ClassVar[Evidence] = TowerFeatures(layer=-2)

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Greedy facility location on cosines; a token is covered as well as by the kept one most like it."""
        unit = normalize(view.evidence[self.features].float(), dim=-1)
        cosine, weight = unit @ unit.mT, view.evidence[self.attention].float() ** self.alpha
        covered, kept = torch.zeros_like(weight), []
        is_kept = torch.zeros_like(weight, dtype=torch.bool)
        for _ in range(self.count(view)):
            gain = (cosine - covered[..., None]).clamp(min=0).sum(dim=1) * weight
            best = gain.masked_fill(is_kept, -torch.inf).argmax(dim=1, keepdim=True)
            covered = torch.maximum(covered, cosine.gather(2, best[:, None].expand(-1, cosine.shape[1], -1))[..., 0])
            is_kept.scatter_(1, best, True)
            kept.append(best)
        return view.keep(torch.cat(kept, dim=1).sort(dim=1).values)
