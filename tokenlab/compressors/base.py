"""What all methods share: hyper-parameters that every method has, the registry, noise, and layer numbers.

Methods hold no state, draw no noise of their own and know no model: they look at a view and return a `Reduction`; the
model side applies it.
"""

from __future__ import annotations

import hashlib
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch

from tokenlab.errors import UserError
from tokenlab.functional import budget, frame_budgets
from tokenlab.schema.plugins import register
from tokenlab.tokens import Evidence
from tokenlab.tokens.sequence import Separators

State = Any
"""What a method passes from layer to layer or step to step: any value, held by the model side, `None` at first."""

ReductionKind = Literal["prune", "merge", "both"]
"""Whether tokens go or become one."""

Preference = Literal["attention", "novelty", "diversity", "text", "unlike text"]
"""What a token must have to survive: attention it receives; being unlike what was there a frame before, or unlike all
others; likeness to the question, or the opposite, which is what some released code keeps."""

BudgetUnit = Literal["frame", "frames", "medium", "layers", "none"]
"""In what a ratio is met: the tokens of each frame, the frames of a video, the tokens of a medium, the tokens that the
LLM's last layer reads; `none`: a method has no ratio but 1, which switches it off."""

Method = TypeVar("Method", bound="TokenCompressor")

REGISTRY: dict[str, type[TokenCompressor]] = {}


@dataclass(frozen=True, kw_only=True)
class TokenCompressor(ABC):
    """A learning-free method: frozen hyper-parameters and pure functions.

    Args:
        retention_ratio: Kept / total visual tokens of a medium, in (0, 1]; 1 switches the method off.
        positions: Whether survivors `keep` their position ids or the sequence is `renumber`ed without gaps.
        separators: Whether the text that marks a frame `follow`s it when the frame loses all its tokens, or is `keep`t;
            `drop`: visual tokens outside the grid, such as newlines, go as well.

    Raises:
        ValueError: If `retention_ratio` is not in (0, 1].
    """

    retention_ratio: float
    positions: Literal["keep", "renumber"] = "keep"
    separators: Separators = "follow"

    name: ClassVar[str]
    stage: ClassVar[str]
    paper: ClassVar[str] = ""
    venue: ClassVar[str] = ""
    """Where and when the paper came out; a year alone for what is on arXiv only."""
    licence: ClassVar[str] = ""
    """Of the authors' own code, none of which is here."""
    kind: ClassVar[ReductionKind] = "prune"
    order: ClassVar[Literal["raster", "rank"]] = "raster"
    """How a method's slots stand: sorted by anchor, or in the method's own order within the places they keep."""
    temporal: ClassVar[bool] = False
    """Whether the method is about time: an image, whose frames are tiles, passes untouched."""
    needs_full_grid: ClassVar[bool] = False
    """Whether the method must see all tokens of every frame it is given."""
    leaves_full_grid: ClassVar[bool] = False
    """Whether the method only ever removes or merges whole frames."""
    has_native_budget: ClassVar[bool] = False
    """Whether `retention_ratio: null` means the authors' own budget; such a method declares `float | None = None`."""
    lowest_ratio: ClassVar[float] = 0.0
    """The share of frames that the method must leave whole, below which it has no budget to give."""
    budget_unit: ClassVar[BudgetUnit] = "frame"
    prefers: ClassVar[tuple[Preference, ...]] = ()
    """What a token must have to survive, each by itself; nothing for what chooses without looking."""
    data_decides: ClassVar[bool] = False
    """Whether what the method sees decides how many tokens are left, ratio or not."""
    all_pairs: ClassVar[bool] = False
    """Whether the method compares all pairs of a medium's tokens, by its definition."""

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        """Registers a method under its name; the stages themselves have none."""
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        if not hasattr(cls, "stage"):
            raise UserError(
                f"compressor {name!r} ({cls.__qualname__}) is of no stage: inherit one, such as GridReduction"
            )
        cls.name = name
        register(REGISTRY, "compressor", name, cls)

    def __post_init__(self) -> None:
        """Refuses an impossible budget."""
        ratio = self.retention_ratio
        if ratio is None and self.has_native_budget:
            return
        if self.budget_unit == "none" and ratio != 1:
            raise ValueError(f"retention_ratio is {ratio}, but {self.name} has none: give null, or 1 to switch it off")
        if ratio is None or not 0 < ratio <= 1:  # also refuses NaN
            raise ValueError(
                f"retention_ratio is {ratio}, but must be greater than 0 and at most 1 (1 keeps every token)"
            )
        if ratio < self.lowest_ratio:
            raise ValueError(
                f"retention_ratio is {ratio}, but must be at least {self.lowest_ratio}: {self.name} leaves that share "
                "of the frames whole"
            )

    def check_shares(self, *names: str) -> None:
        """Raises ValueError for a hyper-parameter that is no share."""
        for name in names:
            if not 0 < (share := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is {share}, but must be greater than 0 and at most 1")

    def check_counts(self, *names: str) -> None:
        """Raises ValueError for a hyper-parameter that counts nothing."""
        for name in names:
            if (count := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {count}, but must be at least 1")

    @classmethod
    def example(cls: type[Method], ratio: float = 0.5) -> Method:
        """Builds one for tests, tables and pages: at this ratio, or what comes nearest to it."""
        build: Any = cls
        return build(retention_ratio=None if cls.budget_unit == "none" else max(ratio, cls.lowest_ratio))

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """Counts the tokens that are left of a medium, by the method's own rounding.

        Args:
            frame_sizes: Tokens on the grid of each of its frames, or tiles.

        Returns:
            The count; None where what the method sees decides.
        """
        total, ratio = sum(frame_sizes), self.retention_ratio
        if self.is_off:
            return total
        if ratio is None or self.budget_unit == "none" or self.data_decides:
            return None
        if self.budget_unit == "frame":
            return sum(frame_budgets(ratio, frame_sizes))
        if self.budget_unit == "frames":
            return budget(ratio, len(frame_sizes)) * frame_sizes[0]
        return budget(ratio, total)

    def needs(self) -> frozenset[Evidence]:
        """The evidence this method looks at: what its class names, unless hyper-parameters decide."""
        named = (value for cls in type(self).__mro__ for value in vars(cls).values())
        return frozenset(value for value in named if isinstance(value, Evidence))

    def acts_at(self, stage: type[TokenCompressor]) -> bool:
        """Whether the method, with these hyper-parameters, acts at a stage."""
        return isinstance(self, stage)

    @property
    def is_off(self) -> bool:
        """Whether the budget is everything: decided here once, for every method."""
        return self.retention_ratio == 1


@dataclass(frozen=True)
class SampleNoise:
    """The noise of one sample: the same in every arm, batch, process and run.

    Attributes:
        seed: The run's seed.
        uid: The sample; of noise that all questions about some media share, the media.
    """

    seed: int
    uid: str

    def generator(self, place: int, medium: int, point: str) -> torch.Generator:
        """Makes fresh noise for one decision; on the CPU, so that a device never changes what is drawn.

        Args:
            place: The method's place in its pipeline.
            medium: The number of the medium in its prompt.
            point: Where in the model the method decides.
        """
        digest = hashlib.sha256(f"{self.seed}/{place}/{self.uid}/{medium}/{point}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") % (1 << 63))


def scaled_layer(authors_layer: int, authors_depth: int, num_layers: int) -> int:
    """A layer number of a paper, carried over to a model of another depth: at least 1, at most the last layer.

    >>> scaled_layer(2, authors_depth=32, num_layers=4)
    1
    """
    return min(num_layers - 1, max(1, round(authors_layer * num_layers / authors_depth)))


def list_compressors(stage: str | None = None) -> list[str]:
    """Names every registered method, or those of one stage; other packages' come along once they are imported."""
    return sorted(name for name, method in REGISTRY.items() if stage in (None, method.stage))
