"""The five stages, and what a method sees at each.

A stage is an abstract class with one abstract method; a method is a final, frozen dataclass under one stage or several:

    class Topic(GridReduction, name="topic"): ...

registers itself by being defined.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tokenlab.compressors.base import BudgetUnit, State, TokenCompressor
from tokenlab.functional import budget, frame_budgets, in_medium
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


@dataclass(frozen=True, kw_only=True)
class CountedFrames(FrameSelection):
    """Frame selection whose authors name a number of frames, which counts where `retention_ratio` is `null`."""

    retention_ratio: float | None = None
    frames: int = 32
    has_native_budget: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses an empty budget."""
        super().__post_init__()
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}, but must be at least 1")

    def count(self, candidates: int) -> int:
        """How many of so many candidates are selected; all of a shorter video."""
        if self.retention_ratio is None:
            return min(self.frames, candidates)
        return budget(self.retention_ratio, candidates)

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """Whole frames."""
        return self.count(len(frame_sizes)) * frame_sizes[0]


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


@dataclass(frozen=True)
class FramesView:
    """What a method sees of frames of one size, all of them together; evidence of tokens is frame by frame as well."""

    values: Float[Tensor, "t n d"]
    places: Int[Tensor, "t n 2"]  # row and column in the frame
    budget: int  # tokens of each frame that the ratio keeps; all where the method has none
    medium: VisualTokens  # all that there is, frames of other sizes included
    evidence: Mapping[Evidence, Tensor]
    question: str
    generator: torch.Generator

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of each frame; raises ValueError where an earlier method left holes."""
        rows, columns = (self.places.flatten(0, 1).amax(dim=0) + 1).tolist()
        if rows * columns != self.values.shape[1]:
            raise ValueError("the token grid is ragged: an earlier compressor removed tokens from some frames")
        return rows, columns

    def keep(self, index: Int[Tensor, "t m"]) -> Reduction:
        """Keeps these tokens of each frame."""
        frames, tokens = self.values.shape[:2]
        return Reduction.keep(in_medium(index, tokens), frames * tokens)


class FrameWise(GridReduction):
    """Reduces every frame, or tile, by itself; frames of one size are handed over all together.

    A ratio is met in each frame, of the tokens that are left there.
    """

    @final
    def reduce_grid(self, view: GridView) -> Reduction:
        """Hands the frames over, and puts what was decided of them together, frame after frame."""
        tokens, parts = view.tokens, []
        for index, keep in self._frames(tokens):
            decision = self.reduce_frames(_view_of_frames(view, index, keep))
            if _is_everything(index, tokens.num_tokens):
                return decision
            parts.append((decision, index.flatten()))
        together = Reduction.cat(parts, tokens.num_tokens)
        return together.reorder(tokens.frame[together.anchor].argsort(stable=True))

    def _frames(self, tokens: VisualTokens) -> list[tuple[Int[Tensor, "t n"], int]]:
        """The tokens of frames that are equal in size, and what the ratio keeps of each."""
        groups = tokens.equal_frames()
        if self.retention_ratio is None:
            return [(index, index.shape[1]) for index in groups]
        budgets = frame_budgets(self.retention_ratio, [index.shape[1] for index in groups for _ in index])
        kept = torch.tensor(budgets, device=tokens.places.device).split([len(index) for index in groups])
        return [
            (index[of_frame == keep], keep)
            for index, of_frame in zip(groups, kept, strict=True)
            for keep in dict.fromkeys(of_frame.tolist())
        ]

    @abstractmethod
    def reduce_frames(self, view: FramesView) -> Reduction:
        """The reduction of the t x n tokens, one frame after the other."""


@dataclass(frozen=True, kw_only=True)
class CountedTokens(FrameWise):
    """Reduction of frames whose authors name a number of tokens, which counts where `retention_ratio` is `null`.

    Args:
        tokens: How many tokens each frame or tile keeps; all, where it has fewer.
    """

    retention_ratio: float | None = None
    tokens: int
    has_native_budget: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses an empty budget."""
        super().__post_init__()
        if self.tokens < 1:
            raise ValueError(f"tokens is {self.tokens}, but must be at least 1")

    def count(self, view: FramesView) -> int:
        """How many tokens of each of these frames are kept."""
        return view.budget if self.retention_ratio is not None else min(self.tokens, view.values.shape[1])

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """The authors' number of each frame, where no ratio is given."""
        if self.retention_ratio is not None:
            return super().kept(frame_sizes)
        return sum(min(size, self.tokens) for size in frame_sizes)


def _view_of_frames(view: GridView, index: Int[Tensor, "t n"], keep: int) -> FramesView:
    """What is seen of some frames; without a copy where they are all there is."""
    whole = _is_everything(index, view.tokens.num_tokens)

    def by_frame(values: Shaped[Tensor, "_ ..."]) -> Shaped[Tensor, "t n ..."]:
        return values.unflatten(0, tuple(index.shape)) if whole else values[index]

    evidence = {need: by_frame(value) if need.per_token else value for need, value in view.evidence.items()}
    values, places = by_frame(view.tokens.values), by_frame(view.tokens.places[:, 1:])
    return FramesView(values, places, keep, view.tokens, evidence, view.question, view.generator)


def _is_everything(index: Int[Tensor, "t n"], num_tokens: int) -> bool:
    """Whether an index lists all tokens in their order."""
    return index.numel() == num_tokens and bool((index.flatten().diff() == 1).all())


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

    @property
    def question(self) -> Int[Tensor, " q"]:
        """Where the text behind the last medium is."""
        return torch.arange(*self.text_after, device=self.hidden.device)


class LayerReduction(TokenCompressor):
    """Reduces visual tokens between the layers of the LLM, during prefill."""

    stage: ClassVar[str] = "layers"
    budget_unit: ClassVar[BudgetUnit] = "layers"

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
