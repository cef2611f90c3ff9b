"""A medium's visual tokens on their token grid, with the evidence that methods look at besides them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tokenlab.reduction import Combine, Reduction


@dataclass(frozen=True)
class Evidence:
    """Something a method may look at besides the tokens; subclasses name it and are the keys of `view.evidence`.

    `axes` say what it is made of: tokens `n`, frames `t`, the question's words `q`, what the LLM reads `s`,
    a width `d`. Evidence of tokens rides through every reduction, combined as `combine` says.
    """

    axes: ClassVar[str] = "n d"
    combine: ClassVar[Combine] = "weights"

    @property
    def per_token(self) -> bool:
        """Whether it has one row a token."""
        return self.axes.startswith("n")


@dataclass(frozen=True)
class VisualTokens:
    """One medium's tokens on its token grid, with the evidence that was asked for.

    Attributes:
        values: The tokens, as the LLM receives them.
        places: Frame, row and column of each token.
        grid: Frames, rows and columns before any reduction.
        evidence: What methods asked for, by the key they asked with.
        tag: A label of each token, set by an earlier reduction.
        is_image: Whether the frames are pictures or tiles of one image, and not time.
        tile: The pass of the tower that each token came from; None: its frame.
        thumbnail: The tile that shows the whole image, where there are others.
        tile_grid: Rows and columns of those others, where they are known.
        within: Each token's row and column in its tile; None: those in its frame.
    """

    values: Float[Tensor, "n d"]
    places: Int[Tensor, "n 3"]
    grid: tuple[int, int, int]
    evidence: Mapping[Evidence, Shaped[Tensor, "..."]] = field(default_factory=dict)
    tag: Int[Tensor, " n"] | None = None
    is_image: bool = False
    tile: Int[Tensor, " n"] | None = None
    thumbnail: int | None = None
    tile_grid: tuple[int, int] | None = None
    within: Int[Tensor, "n 2"] | None = None

    @classmethod
    def from_grid(
        cls, values: Float[Tensor, "t h w d"], evidence: Mapping[Evidence, Shaped[Tensor, "..."]] | None = None
    ) -> VisualTokens:
        """Makes all tokens of a full grid, in raster order."""
        frames, rows, columns, _ = values.shape
        axes = (torch.arange(size, device=values.device) for size in (frames, rows, columns))
        places = torch.cartesian_prod(*axes).reshape(-1, 3)
        return cls(values.flatten(0, 2), places, (frames, rows, columns), evidence or {})

    @property
    def num_tokens(self) -> int:
        """The number of tokens, n."""
        return self.values.shape[0]

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one full frame, rows x columns."""
        return self.grid[1] * self.grid[2]

    @cached_property
    def frame(self) -> Int[Tensor, " n"]:
        """Each token's frame."""
        return self.places[:, 0]

    @property
    def tiles(self) -> Int[Tensor, " n"]:
        """Each token's tile."""
        return self.frame if self.tile is None else self.tile

    @property
    def places_in_tiles(self) -> Int[Tensor, "n 2"]:
        """Each token's row and column in its tile."""
        return self.places[:, 1:] if self.within is None else self.within

    def as_frames(self) -> Float[Tensor, "t n d"]:
        """The values as whole frames; raises ValueError if some frame lacks tokens."""
        frames = self.frame.reshape(-1, self.tokens_per_frame) if self.num_tokens % self.tokens_per_frame == 0 else None
        if frames is None or not bool((frames == frames[:, :1]).all()):
            raise ValueError("the token grid is ragged: an earlier compressor removed tokens from some frames")
        return self.values.reshape(-1, self.tokens_per_frame, self.values.shape[-1])

    def equal_frames(self) -> list[Int[Tensor, "t n"]]:
        """Finds the tokens of each frame, frames of one size together: equal in rows, columns and tokens left.

        >>> tokens = VisualTokens(torch.zeros(3, 1), torch.tensor([[0, 0, 0], [1, 0, 0], [1, 0, 1]]), (2, 1, 2))
        >>> [index.tolist() for index in tokens.equal_frames()]
        [[[0]], [[1, 2]]]
        """
        by_frame = self.frame.argsort(stable=True)
        numbers, frame, counts = self.frame.unique(return_inverse=True, return_counts=True)
        extent = self.places.new_zeros(len(numbers), 2)
        extent.scatter_reduce_(0, frame[:, None].expand(-1, 2), self.places[:, 1:], "amax")
        sizes, size = torch.cat([counts[:, None], extent], dim=1).unique(dim=0, return_inverse=True)
        if len(sizes) == 1:
            return [by_frame.reshape(len(numbers), -1)]
        groups = [by_frame[size[frame[by_frame]] == number] for number in range(len(sizes))]
        return sorted(
            (group.reshape(-1, count) for group, count in zip(groups, sizes[:, 0].tolist(), strict=True)),
            key=lambda group: int(self.frame[group[0, 0]]),
        )

    def showing(self, needs: Collection[Evidence]) -> VisualTokens:
        """The same tokens without other evidence, which would be reduced with them for nobody."""
        return replace(self, evidence={need: value for need, value in self.evidence.items() if need in needs})

    def to(self, device: torch.device | str) -> VisualTokens:
        """Copies the tokens to another device; themselves, where they are there already."""
        if self.values.device == torch.device(device):
            return self
        evidence = {key: value.to(device) for key, value in self.evidence.items()}
        own = {name: value.to(device) for name, value in self._own.items()}
        return replace(self, values=self.values.to(device), evidence=evidence, **own)

    def reduce(self, reduction: Reduction) -> VisualTokens:
        """Applies a reduction to the tokens, their places, tags and evidence."""
        if reduction.is_identity:
            return self
        reduction = reduction.to(self.values.device)
        values = reduction.apply(self.values)
        evidence = {
            # evidence that is the tokens themselves is reduced with them, once
            key: values if value is self.values else reduction.apply(value, key.combine) if key.per_token else value
            for key, value in self.evidence.items()
        }
        own = {name: value[reduction.anchor] for name, value in self._own.items()}
        if reduction.tag is not None:
            own["tag"] = reduction.tag
        return replace(self, values=values, evidence=evidence, **own)

    @property
    def _own(self) -> dict[str, Int[Tensor, "n ..."]]:
        """What there is of each token besides its value: a merged one has its anchor's."""
        known = {"places": self.places, "tag": self.tag, "tile": self.tile, "within": self.within}
        return {name: value for name, value in known.items() if value is not None}
