"""The five stages, what a method sees at each, and the registry of methods.

A stage is an abstract class with one abstract method; a method is a final, frozen dataclass under one stage or several:

    class Topic(GridReduction, name="topic"): ...

registers itself by being defined. Methods hold no state, draw no noise of their own and know no model: they look at a
view and return a `Reduction`; the model side applies it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenlab.tensors import Evidence, Reduction, VisualTokens

State = Any
"""What a method passes from layer to layer or step to step: any value, held by the model side, `None` at first."""

REGISTRY: dict[str, type[TokenCompressor]] = {}


@dataclass(frozen=True, kw_only=True)
class TokenCompressor(ABC):
    """A learning-free method: frozen hyper-parameters and pure functions.

    Args:
        retention_ratio: Kept / total visual tokens of a medium, in (0, 1]; 1 switches the method off.
        positions: Whether survivors `keep` their position ids or the sequence is `renumber`ed without gaps.
        separators: Whether the text that marks a frame `follow`s it when the frame loses all its tokens, or is `keep`t.

    Raises:
        ValueError: If `retention_ratio` is not in (0, 1].
    """

    retention_ratio: float
    positions: Literal["keep", "renumber"] = "keep"
    separators: Literal["follow", "keep"] = "follow"

    name: ClassVar[str]
    stage: ClassVar[str]
    paper: ClassVar[str] = ""
    needs_full_grid: ClassVar[bool] = False
    """Whether the method must see all tokens of every frame it is given."""
    leaves_full_grid: ClassVar[bool] = False
    """Whether the method only ever removes or merges whole frames."""
    has_native_budget: ClassVar[bool] = False
    """Whether `retention_ratio: null` means the authors' own budget; such a method declares `float | None = None`."""
    lowest_ratio: ClassVar[float] = 0.0
    """The share of frames that the method must leave whole, below which it has no budget to give."""

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        """Registers a method under its name; the stages themselves have none."""
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        if name in REGISTRY and REGISTRY[name].__qualname__ != cls.__qualname__:
            raise TypeError(f"two compressors are called {name!r}: {REGISTRY[name]} and {cls}")
        cls.name = name
        REGISTRY[name] = cls

    def __post_init__(self) -> None:
        """Refuses an impossible budget."""
        ratio = self.retention_ratio
        if ratio is None and self.has_native_budget:
            return
        if ratio is None or not 0 < ratio <= 1:  # also refuses NaN
            raise ValueError(
                f"retention_ratio is {ratio}, but must be greater than 0 and at most 1 (1 keeps every token)"
            )
        if ratio < self.lowest_ratio:
            raise ValueError(
                f"retention_ratio is {ratio}, but must be at least {self.lowest_ratio}: {self.name} leaves that share "
                "of the frames whole"
            )

    def needs(self) -> frozenset[Evidence]:
        """The evidence this method looks at, with these hyper-parameters."""
        return frozenset()

    @property
    def is_off(self) -> bool:
        """Whether the budget is everything: decided here once, for every method."""
        return self.retention_ratio == 1


@dataclass(frozen=True)
class FrameView:
    """What frame selection sees: candidate frames before the tower."""

    num_frames: int
    seconds: Float[Tensor, " t"]  # each candidate's time
    question: str
    evidence: Mapping[Evidence, Tensor]
    generator: torch.Generator


@dataclass(frozen=True, kw_only=True)
class FrameSelection(TokenCompressor):
    """Chooses frames before the vision tower reads them; the prompt is written for the chosen frames alone."""

    positions: Literal["renumber"] = "renumber"

    stage: ClassVar[str] = "frames"
    leaves_full_grid: ClassVar[bool] = True

    @abstractmethod
    def select_frames(self, view: FrameView) -> Reduction:
        """Which of the candidate frames stay, in time order; frames are pruned, never merged."""


@dataclass(frozen=True)
class BlockView:
    """What a method sees inside one block of the vision tower, between attention and MLP: all frames of a medium."""

    layer: int
    num_layers: int
    hidden: Float[Tensor, "t n d"]
    keys: Float[Tensor, "t n heads e"]  # of this block's attention
    size: Float[Tensor, "t n"]  # how many patches each token stands for
    patches: int  # tokens of a frame before the first block, protected ones included
    protected: int  # leading tokens of every frame that may not go, such as [CLS]
    generator: torch.Generator


class TowerReduction(TokenCompressor):
    """Reduces tokens inside the vision tower, block by block."""

    stage: ClassVar[str] = "tower"
    proportional_attention: ClassVar[bool] = False
    """Whether later blocks weigh a token by how many patches it stands for (log size added to the logits)."""

    @abstractmethod
    def reduce_block(self, view: BlockView, state: State) -> tuple[Reduction, State]:
        """The reduction of the t x n tokens, flattened frame by frame, and what the next block should know.

        Tokens stay in their frame, and every frame keeps the same number.
        """


@dataclass(frozen=True)
class GridView:
    """What a method sees on the token grid: one medium's visual tokens as the LLM would receive them."""

    tokens: VisualTokens
    question: str
    generator: torch.Generator

    @property
    def evidence(self) -> Mapping[Evidence, Tensor]:
        """What the method asked for, by the key it asked with."""
        return self.tokens.evidence


class GridReduction(TokenCompressor):
    """Reduces visual tokens on the token grid, between projector and LLM."""

    stage: ClassVar[str] = "grid"
    merges_before_projector: ClassVar[bool] = False
    """Whether merged values are sums of what the projector reads, not of what it makes of it; where the projector does
    not take tokens one by one, they are sums on the token grid all the same."""

    @abstractmethod
    def reduce_grid(self, view: GridView) -> Reduction:
        """The reduction of the medium's tokens."""


Moment = Literal["before_attention", "after_attention"]
"""Where in a layer of the LLM: at its entry, or between its attention and its MLP."""


@dataclass(frozen=True)
class LayerView:
    """What a method sees at one point of the LLM during prefill: the whole sequence, and where a medium is in it."""

    layer: int
    num_layers: int
    moment: Moment
    hidden: Float[Tensor, "s d"]
    visual: Int[Tensor, " n"]  # where the medium's tokens are in the sequence, ascending
    places: Int[Tensor, "n 3"]  # frame, row, column of each
    tag: Int[Tensor, " n"] | None
    initial: int  # visual tokens of the medium when the LLM began to read
    text_after: tuple[int, int]  # span of the text that follows the last medium: the question
    evidence: Mapping[Evidence, Tensor]
    generator: torch.Generator


class LayerReduction(TokenCompressor):
    """Reduces visual tokens between the layers of the LLM, during prefill."""

    stage: ClassVar[str] = "layers"

    @abstractmethod
    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """At which layers of a model of this depth, and where in them, the method looks; in order."""

    @abstractmethod
    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """The reduction of the medium's n tokens at this point, and what the next point should know."""


@dataclass(frozen=True)
class CacheView:
    """What a method sees of one layer at one decode step."""

    layer: int
    num_layers: int
    step: int  # 1 for the first token after the prefill's
    visual: Int[Tensor, " n"]  # where the medium's tokens are in the layer's cache
    evidence: Mapping[Evidence, Tensor]
    generator: torch.Generator


class CacheReduction(TokenCompressor):
    """Chooses, while the answer is decoded, which visual tokens of the KV cache a step attends to."""

    stage: ClassVar[str] = "cache"

    @abstractmethod
    def cache_layers(self, num_layers: int) -> Sequence[int]:
        """The layers at whose entry the method looks, in a model of this depth; in order."""

    @abstractmethod
    def reduce_cache(self, view: CacheView, state: State) -> tuple[Reduction, State]:
        """Which cached tokens this layer and those above it see in this step; the next step starts from all again."""


STAGES: tuple[type[TokenCompressor], ...] = (
    FrameSelection,
    TowerReduction,
    GridReduction,
    LayerReduction,
    CacheReduction,
)
"""In the order in which the walk of the data meets them."""


def seeded_generator(seed: int, method: str, uid: str) -> torch.Generator:
    """Noise for one method on one sample: the same in every arm, batch, process and run.

    It lives on the CPU, so that a device never changes what is drawn.
    """
    digest = hashlib.sha256(f"{seed}/{method}/{uid}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % (1 << 63))


def scaled_layer(authors_layer: int, authors_depth: int, num_layers: int) -> int:
    """A layer number of a paper, carried over to a model of another depth: at least 1, at most the last layer.

    >>> scaled_layer(2, authors_depth=32, num_layers=4)
    1
    """
    return min(num_layers - 1, max(1, round(authors_layer * num_layers / authors_depth)))
