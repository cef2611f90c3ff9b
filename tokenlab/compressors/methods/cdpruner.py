"""Conditional diversity: *Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs*.

NeurIPS 2025 (CDPruner), arXiv 2506.10967.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors import (
    CountedTokens,
    Evidence,
    FramesView,
    Preference,
    QuestionEmbeddings,
    Reduction,
    TokenEmbeddings,
    greedy_dpp,
)


@dataclass(frozen=True, kw_only=True)
class CdPruner(CountedTokens, name="cdpruner"):
    """Keeps the tokens of each frame which differ and fit the question, by a determinantal point process."""

    positions: Literal["keep", "renumber"] = "renumber"
    tokens: int = 64
    paper: ClassVar[str] = "arXiv 2506.10967"
    venue: ClassVar[str] = "NeurIPS 2025"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("unlike text", "diversity")
    patches: ClassVar[Evidence] = TokenEmbeddings("clip", layer=-2)
    words: ClassVar[Evidence] = QuestionEmbeddings("clip")

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Greedy inference; the kernel is the tokens' cosines, each weighed by relevance on either side."""
        words = normalize(view.evidence[self.words].float(), dim=-1)

        def relevance(patches: Float[Tensor, "*_ d"]) -> Float[Tensor, "*_"]:
            # Released code, which we follow, takes a LOW cosine of patch and question for relevance
            return -(normalize(patches.float(), dim=-1) @ words.T).mean(dim=-1)

        lowest, highest = relevance(view.medium.evidence[self.patches]).aminmax()
        weight = (relevance(view.evidence[self.patches]) - lowest + 1e-6) / (highest - lowest).clamp(min=1e-6)
        factors = weight[..., None] * normalize(view.values.float(), dim=-1)
        return view.keep(greedy_dpp(factors, self.count(view)).sort(dim=-1).values)
