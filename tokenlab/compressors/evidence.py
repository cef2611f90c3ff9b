"""What a compressor may ask for besides the tokens. A family offers some of it; only what an arm needs is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from tokenlab.reduction import Combine
from tokenlab.tokens import Evidence

Space = Literal["llm", "clip"]
"""`llm`: the language model's input embeddings; `clip`: the joint image-text space of a CLIP model."""


@dataclass(frozen=True)
class TowerAttention(Evidence):
    """Attention each token receives in one layer of the vision tower, mean over heads, `[n]`.

    Attributes:
        layer: The tower's layer, from the end if negative; -2 is the last but one.
        query: Who pays it: `cls`, the mean over all queries, or `cls_or_mean` (the mean where there is no [CLS]).
        heads: Whether it is the `mean` over the layer's heads, or that of `one` head as wide as all of them.
        over: Whether what several queries pay is their `mean` or their `sum`.
    """

    axes: ClassVar[str] = "n"
    combine: ClassVar[Combine] = "sum"
    layer: int = -2
    query: Literal["cls", "mean", "cls_or_mean"] = "cls_or_mean"
    heads: Literal["mean", "one"] = "mean"
    over: Literal["mean", "sum"] = "mean"


@dataclass(frozen=True)
class TowerLogits(Evidence):
    """What [CLS] would pay each token in one layer of the vision tower, before the softmax, mean over heads, `[n]`.

    Attributes:
        layer: The tower's layer, from the end if negative.
    """

    axes: ClassVar[str] = "n"
    combine: ClassVar[Combine] = "mean"
    layer: int = -2


@dataclass(frozen=True)
class PoolingAttention(Evidence):
    """What the pooling head of a SigLIP tower, which has no [CLS], pays each token, mean over heads, `[n]`."""

    axes: ClassVar[str] = "n"
    combine: ClassVar[Combine] = "sum"


@dataclass(frozen=True)
class FrameFeatures(Evidence):
    """What the pooling head of a SigLIP tower makes of each whole frame, `[t, d]`."""

    axes: ClassVar[str] = "t d"


@dataclass(frozen=True)
class TokenEmbeddings(Evidence):
    """Each visual token in a space it shares with text, `[n, d]`.

    Attributes:
        space: That space.
        layer: Of a `clip`, whose output is projected into the space, from the end.
    """

    space: Space = "llm"
    layer: int = -1


@dataclass(frozen=True)
class QuestionEmbeddings(Evidence):
    """The question's tokens in a space they share with visual tokens, `[q, d]`.

    Attributes:
        space: That space.
        words: Which words of the question count, as a module-level pure function finds them; None: the whole question.
    """

    axes: ClassVar[str] = "q d"
    space: Space = "llm"
    words: Callable[[str], list[str]] | None = None


@dataclass(frozen=True)
class TowerKeys(Evidence):
    """Keys of one layer of the vision tower, `[n, d]`.

    Attributes:
        layer: The tower's layer, from the end if negative.
        heads: Whether keys are the `mean` over the layer's heads, or `all` stand side by side.
    """

    layer: int = -2
    heads: Literal["mean", "all"] = "mean"


@dataclass(frozen=True)
class TowerFeatures(Evidence):
    """What one layer of the vision tower makes of each token, before the projector, `[n, d]`."""

    layer: int = -2


@dataclass(frozen=True)
class ProjectorInput(Evidence):
    """What a projector that takes tokens one by one reads of each, `[n, e]`; nowhere else is there such a thing.

    A pipeline asks for it by itself, where it holds methods that merge before the projector.
    """


@dataclass(frozen=True)
class PixelChange(Evidence):
    """How far the pixels that a token shows are from those in its place a step before, `[n]`.

    The mean absolute difference over pixels and channels, of black to white 1; infinite in the first step. Where frames
    are taken together in a step, between the last one of a step and the first one of the step before.
    """

    axes: ClassVar[str] = "n"


@dataclass(frozen=True)
class FrameScores(Evidence):
    """How well each candidate frame fits the question, `[t]`: their cosine in a space they share."""

    axes: ClassVar[str] = "t"
    space: Space = "clip"


@dataclass(frozen=True)
class LayerAttention(Evidence):
    """Attention of a layer of the LLM during prefill: an `Attention`, which computes the rows that it is asked for.

    Attributes:
        layer: Whose: the `latest` that attended (at a layer's entry the one before, between attention and MLP the layer
            itself), or the `next` to attend, which is known at its entry alone.
        rotary: Whether queries and keys are rotated by position.
    """

    axes: ClassVar[str] = "attention"
    layer: Literal["latest", "next"] = "latest"
    rotary: bool = True


@dataclass(frozen=True)
class NormedHidden(Evidence):
    """The sequence behind the norm with which the LLM ends, computed where the method looks, `[s, d]`."""

    axes: ClassVar[str] = "s d"


@dataclass(frozen=True)
class StepAttention(Evidence):
    """What the token that is being decoded pays every cached one in the layer before, mean over heads, `[s]`."""

    axes: ClassVar[str] = "s"
