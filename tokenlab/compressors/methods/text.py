"""Spatial pruning by the question: *Learning Free Token Reduction for Multi-Modal LLM* (arXiv 2501.17391)."""

from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import normalize

from tokenlab.compressors import (
    Evidence,
    FramesView,
    FrameWise,
    Preference,
    QuestionEmbeddings,
    Reduction,
    Space,
    TokenEmbeddings,
    top,
)


@dataclass(frozen=True, kw_only=True)
class Text(FrameWise, name="text"):
    """Keeps the tokens of each frame that are most like some word of the question.

    Args:
        space: Where tokens and words are compared: after the projector (`llm`), or in a joint `clip` space.
    """

    space: Space = "llm"
    paper: ClassVar[str] = "arXiv 2501.17391"
    venue: ClassVar[str] = "2025"
    licence: ClassVar[str] = "no code"
    prefers: ClassVar[tuple[Preference, ...]] = ("text",)

    def needs(self) -> frozenset[Evidence]:
        """Tokens and question in the same space."""
        return frozenset({TokenEmbeddings(self.space), QuestionEmbeddings(self.space)})

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Scores a token by its best cosine with a question token, and keeps the top of every frame."""
        tokens = normalize(view.evidence[TokenEmbeddings(self.space)].float(), dim=-1)
        words = normalize(view.evidence[QuestionEmbeddings(self.space)].float(), dim=-1)
        scores = (tokens @ words.T).amax(dim=-1)
        return view.keep(top(scores, view.budget))
