"""The sequence that the LLM reads: where a prompt's media are, and what reductions leave of it.

Pure index arithmetic on one prompt, on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tokenlab.reduction import Reduction
from tokenlab.tokens.positions import TEXT, renumber

Span = tuple[int, int]

Separators = Literal["follow", "keep", "drop"]
"""Whether the text that marks a frame follows its tokens or is kept; `drop`: tokens outside the grid go, too."""


@dataclass(frozen=True)
class Medium:
    """Where one image or video is in a prompt.

    Attributes:
        visual: Sequence index of each grid token, in the order of the grid.
        places: Frame, row and column of each grid token.
        separators: Sequence indices of its visual tokens outside the grid, such as newlines.
        markers: For each frame, the text before and after it that goes when the frame loses all its tokens.
    """

    visual: Int[Tensor, " n"]
    places: Int[Tensor, "n 3"]
    separators: Int[Tensor, " k"]
    markers: tuple[tuple[Span, Span], ...]


@dataclass(frozen=True)
class Prompt:
    """One untouched prompt, placeholders included, unpadded."""

    ids: Int[Tensor, " s"]
    media: tuple[Medium, ...]

    def __len__(self) -> int:
        """Tokens of the prompt."""
        return self.ids.shape[0]

    @cached_property
    def owner(self) -> Int[Tensor, " s"]:
        """The medium of each visual token, separators included; -1 for text."""
        owner = torch.full((len(self),), TEXT)
        for number, medium in enumerate(self.media):
            owner[medium.visual] = owner[medium.separators] = number
        return owner

    @cached_property
    def run(self) -> Int[Tensor, " s"]:
        """For each token the number of its run of visual tokens; -1 for text."""
        visual = self.owner != TEXT
        starts = visual & ~torch.cat([visual.new_zeros(1), visual[:-1]])
        return torch.where(visual, starts.long().cumsum(0) - 1, TEXT)


@dataclass(frozen=True)
class TokenLayout:
    """Which tokens of a prompt are left, in the order of the sequence.

    Attributes:
        prompt: The untouched prompt.
        origin: For each token that is left, the index in the untouched sequence whose place it takes.
        medium: The medium of each token on a grid; -1 for text and separators.
        history: How the layout came about: for each method that reduced, the tokens it chose from the sequence before,
            and whether positions were renumbered then.
    """

    prompt: Prompt
    origin: Int[Tensor, " s"]
    medium: Int[Tensor, " s"]
    history: tuple[tuple[Int[Tensor, " _"], bool], ...] = ()

    @classmethod
    def identity(cls, prompt: Prompt) -> TokenLayout:
        """Every token in its place."""
        medium = torch.full((len(prompt),), TEXT)
        for number, each in enumerate(prompt.media):
            medium[each.visual] = number
        return cls(prompt, torch.arange(len(prompt)), medium)

    def __len__(self) -> int:
        """Tokens that are left."""
        return self.origin.shape[0]

    def visual(self, number: int) -> Int[Tensor, " n"]:
        """Where a medium's tokens are in the sequence, ascending."""
        return (self.medium == number).nonzero()[:, 0]

    @property
    def ids(self) -> Int[Tensor, " s"]:
        """Token ids of what is left."""
        return self.prompt.ids[self.origin]

    @property
    def owner(self) -> Int[Tensor, " s"]:
        """The medium of each token that is left, separators included; -1 for text."""
        return self.prompt.owner[self.origin]

    def text_after(self) -> Span:
        """The span of the text behind the last medium, of which nothing need be left; only asked where there is one."""
        last = int((self.prompt.run != TEXT).nonzero()[-1])
        return int((self.origin <= last).sum()), len(self)

    def positions(self, original: Int[Tensor, "axes l"]) -> Int[Tensor, "axes s"]:
        """Position ids of what is left, from those of the untouched prompt (one row, or one an axis of M-RoPE)."""
        origin, current = torch.arange(len(self.prompt)), original
        for kept, renumbered in self.history:
            origin, current = origin[kept], current[:, kept]
            if renumbered:
                current = renumber(original, origin, self.prompt.run)
        return current

    def in_runs(self, decision: Reduction, number: int) -> tuple[Reduction, Int[Tensor, " m"]]:
        """Puts a medium's slots in the order of their runs, within which they keep theirs; returns that order too."""
        order = self.prompt.run[self.origin[self.visual(number)[decision.anchor]]].argsort(stable=True)
        return decision.reorder(order), order

    def lift(self, decisions: Sequence[Reduction], separators: Separators) -> Reduction:
        """Makes one reduction over the whole sequence of the reductions of its media; text is kept.

        Slots of a run fill the run's kept places in their order; separators stay put, unless they are dropped. Where a
        frame loses every token its markers go, unless they are kept.

        Args:
            decisions: For each medium, a reduction whose slots are in the order of their runs.
            separators: Whether markers follow their frame, or are kept; whether separators go, too, where a medium is
                reduced.
        """
        is_text, parts, places = self.medium == TEXT, [], []
        for number, decision in enumerate(decisions):
            visual = self.visual(number)
            anchors = visual[decision.anchor]
            if separators == "drop" and not decision.is_identity:
                is_text &= ~torch.isin(self.origin, self.prompt.media[number].separators)
            if separators != "keep":
                is_text &= ~self._markers_of_empty_frames(number, self.origin[anchors])[self.origin]
            parts.append((replace(decision, tag=None), visual))
            places.append(anchors.sort().values)
        text = is_text.nonzero()[:, 0]
        parts.append((Reduction.identity(len(text)), text))
        whole = Reduction.cat(parts, len(self))
        return whole.reorder(torch.cat([*places, text]).argsort(stable=True))

    def reduce(self, lifted: Reduction, renumbered: bool) -> TokenLayout:
        """The layout that a reduction of the whole sequence leaves."""
        history = (*self.history, (lifted.anchor, renumbered))
        return TokenLayout(self.prompt, self.origin[lifted.anchor], self.medium[lifted.anchor], history)

    def _markers_of_empty_frames(self, number: int, kept: Int[Tensor, " m"]) -> Bool[Tensor, " l"]:
        """Marks, in the untouched prompt, the text of the medium's frames in which no token is kept."""
        medium = self.prompt.media[number]
        frame = torch.zeros(len(self.prompt), dtype=torch.long)
        frame[medium.visual] = medium.places[:, 0]
        has_tokens = torch.zeros(len(medium.markers), dtype=torch.bool)
        has_tokens[frame[kept]] = True
        goes = torch.zeros(len(self.prompt), dtype=torch.bool)
        for spans, stays in zip(medium.markers, has_tokens.tolist(), strict=True):
            for start, stop in spans:
                goes[start:stop] = not stays
        goes[medium.separators] = False  # a class token between frames is no text
        return goes
