"""The six stages, and what a method sees at each.

A stage is an abstract class with one abstract method; a method is a final, frozen dataclass under one stage or several:

    class Topic(GridReduction, name="topic"): ...

registers itself by being defined.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenlab.compressors.base import BudgetUnit, State, TokenCompressor
from tokenlab.reduction import Reduction
from tokenlab.tokens import Evidence, VisualTokens


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
    budget_unit: ClassVar[BudgetUnit] = "frames"
    temporal: ClassVar[bool] = True
    leaves_full_grid: ClassVar[bool] = True

    @abstractmethod
    def select_frames(self, view: FrameView) -> Reduction:
        """Which of the candidate frames stay, in time order; frames are pruned, never merged."""


Size = tuple[int, int]
"""Height and width, or rows and columns."""


@dataclass(frozen=True)
class PixelView:
    """What a method sees of a medium before the checkpoint's processor reads its pixels: how large it is."""

    size: Size
    tokens: Callable[[Size], int]  # visual tokens that the model makes of the medium at a size


@dataclass(frozen=True, kw_only=True)
class PixelReduction(TokenCompressor):
    """Shrinks pictures before the checkpoint's processor reads them; the prompt is written for what comes out."""

    positions: Literal["renumber"] = "renumber"

    stage: ClassVar[str] = "pixels"
    budget_unit: ClassVar[BudgetUnit] = "medium"
    leaves_full_grid: ClassVar[bool] = True

    @abstractmethod
    def choose_size(self, view: PixelView) -> Size:
        """The size at which all of the medium's pictures are shown."""


@dataclass(frozen=True)
class BlockView:
    """What a method sees inside one block of the vision tower: all frames of a medium."""

    layer: int
    num_layers: int
    hidden: Float[Tensor, "t n d"]
    keys: Float[Tensor, "t n heads e"]  # of this block's attention
    values: Float[Tensor, "t n heads e"]  # likewise
    cls_attention: Float[Tensor, "t n"] | None  # what [CLS] pays each token, mean over heads; if asked for
    size: Float[Tensor, "t n"]  # how many patches each token stands for
    places: Int[Tensor, "t n"]  # the patch that each token stands at, row by row; -1: none, as of [CLS]
    grid: tuple[int, int]  # rows and columns of patches
    protected: int  # leading tokens of every frame that may not go, such as [CLS]
    generator: torch.Generator

    @property
    def patches(self) -> int:
        """Tokens of a frame before the first block, protected ones included."""
        return self.protected + self.grid[0] * self.grid[1]

    @staticmethod
    def first_places(frames: int, patches: int, protected: int) -> Int[Tensor, "t n"]:
        """The places of all tokens before the first block: protected ones, and so many patches."""
        return torch.arange(-protected, patches).clamp(min=-1).repeat(frames, 1)


class TowerReduction(TokenCompressor):
    """Reduces tokens inside the vision tower, block by block."""

    stage: ClassVar[str] = "tower"
    moment: ClassVar[Literal["after_attention", "after_block"]] = "after_attention"
    """Where in a block the method acts: between its attention and its MLP, or behind both."""
    looks_at_cls: ClassVar[bool] = False
    """Whether the method looks at what [CLS] pays each token."""
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
    medium: VisualTokens  # those tokens' places, tags and evidence, without values
    initial: int  # visual tokens of the medium when the LLM began to read
    text_after: tuple[int, int]  # span of the text that follows the last medium: the question
    evidence: Mapping[Evidence, Any]  # an `Attention` by `LayerAttention`, else a tensor
    generator: torch.Generator

    @cached_property
    def tokens(self) -> VisualTokens:
        """The medium's tokens on their grid, with what the LLM has made of them so far."""
        return replace(self.medium, values=self.hidden[self.visual])

    @property
    def last(self) -> Int[Tensor, " 1"]:
        """Where the prompt's last token is."""
        return torch.tensor([self.hidden.shape[0] - 1], device=self.hidden.device)

    def from_last(self, attention: Evidence) -> Float[Tensor, " n"]:
        """What the prompt's last token pays each of the medium's tokens, mean over heads."""
        return self.evidence[attention].received(self.last)[self.visual]

    @property
    def question(self) -> Int[Tensor, " q"]:
        """Where the text behind the last medium is."""
        return torch.arange(*self.text_after, device=self.hidden.device)


class LayerReduction(TokenCompressor):
    """Reduces visual tokens between the layers of the LLM, during prefill."""

    stage: ClassVar[str] = "layers"
    budget_unit: ClassVar[BudgetUnit] = "layers"
    proportional_attention: ClassVar[bool] = False
    """Whether layers from the method's first cut on weigh a token by how many it stands for since: log size is added to
    its logits, at prefill and in every step."""

    @property
    def positions_inside(self) -> Literal["keep", "renumber"]:
        """What becomes of position ids where tokens go in the LLM."""
        return self.positions

    def gathered_caches(self, num_layers: int) -> range:
        """The layers whose caches keep, behind the prefill, only what is left behind the last cut; none by default."""
        return range(0)

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
    PixelReduction,
    TowerReduction,
    GridReduction,
    LayerReduction,
    CacheReduction,
)
"""In the order in which the walk of the data meets them."""
