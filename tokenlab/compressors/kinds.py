"""What many methods share within a stage: frame by frame, by number, or on the grid and in the LLM.

A method inherits one of these in place of its stage.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tokenlab.compressors.base import BudgetUnit
from tokenlab.compressors.stages import FrameSelection, GridReduction, GridView, LayerReduction
from tokenlab.functional import budget, frame_budgets, in_medium
from tokenlab.reduction import Reduction
from tokenlab.tokens import Evidence, VisualTokens


@dataclass(frozen=True, kw_only=True)
class CountedFrames(FrameSelection):
    """Frame selection whose authors name a number of frames, which counts where `retention_ratio` is `null`."""

    retention_ratio: float | None = None
    frames: int = 32
    has_native_budget: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses an empty budget."""
        super().__post_init__()
        self.check_counts("frames")

    def count(self, candidates: int) -> int:
        """How many of so many candidates are selected; all of a shorter video."""
        if self.retention_ratio is None:
            return min(self.frames, candidates)
        return budget(self.retention_ratio, candidates)

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """Whole frames."""
        return self.count(len(frame_sizes)) * frame_sizes[0]


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
        self.check_counts("tokens")

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


@dataclass(frozen=True, kw_only=True)
class TwoStage(GridReduction, LayerReduction):
    """Reduction of a video on the token grid and once more in the LLM, each by a share of its own.

    Args:
        retention_ratio: About what is left behind the LLM's cut; the grid leaves the ratio divided by `inner`.
        outer: The authors' budget on the grid, where `retention_ratio` is `null`.
        inner: The share of it that is left in the LLM.
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    outer: float
    inner: float
    has_native_budget: ClassVar[bool] = True
    temporal: ClassVar[bool] = True
    needs_full_grid: ClassVar[bool] = True
    budget_unit: ClassVar[BudgetUnit] = "medium"
    data_decides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses shares that are none."""
        super().__post_init__()
        self.check_shares("outer", "inner")

    @property
    def positions_inside(self) -> Literal["keep", "renumber"]:
        """The LLM's cut leaves positions as the grid's left them."""
        return "keep"

    @property
    def outer_share(self) -> float:
        """What the grid leaves, before it is expanded."""
        return self.outer if self.retention_ratio is None else min(1.0, self.retention_ratio / self.to_cut)

    @property
    def inner_share(self) -> float:
        """What the LLM leaves of that."""
        if self.retention_ratio is None:
            return self.inner
        return min(1.0, self.inner * self.retention_ratio / (self.outer_share * self.to_cut))

    @property
    def to_cut(self) -> float:
        """Of what the grid's share stands for, the part that is left behind the LLM's cut."""
        return self.inner
