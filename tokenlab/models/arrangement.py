"""From reductions to the sequence the LLM reads: which tokens, in which order, at which positions.

Pure index arithmetic on one prompt, on the CPU; `entry.py` carries it out on the embedded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from tokenlab.tensors import Reduction

Span = tuple[int, int]
TEXT = -1


@dataclass(frozen=True)
class Medium:
    """Where one image or video is in a prompt.

    Attributes:
        visual: Sequence index of each grid token, in the order of the grid.
        places: Frame, row and column of each.
        separators: Sequence indices of its visual tokens outside the grid, such as newlines.
        markers: For each frame, the text before and after it that goes when the frame loses all its tokens.
    """

    visual: Int[np.ndarray, " n"]
    places: Int[np.ndarray, "n 3"]
    separators: Int[np.ndarray, " k"]
    markers: tuple[tuple[Span, Span], ...]


@dataclass(frozen=True)
class Prompt:
    """One prompt, placeholders included, unpadded."""

    ids: Int[np.ndarray, " s"]
    media: tuple[Medium, ...]

    def __len__(self) -> int:
        """Tokens of the prompt."""
        return self.ids.shape[0]

    @cached_property
    def run(self) -> Int[np.ndarray, " s"]:
        """For each token the number of its run of visual tokens; -1 for text."""
        visual = np.zeros(len(self), dtype=bool)
        for medium in self.media:
            visual[medium.visual] = visual[medium.separators] = True
        starts = visual & ~np.concatenate([[False], visual[:-1]])
        return np.where(visual, np.cumsum(starts) - 1, TEXT)


@dataclass(frozen=True)
class Move:
    """What one method does to all media of a prompt, and how it treats positions and frame markers."""

    reductions: tuple[Reduction, ...]
    positions: Literal["keep", "renumber"]
    separators: Literal["follow", "keep"]


@dataclass(frozen=True)
class Arrangement:
    """The reduced sequence.

    Attributes:
        source: For each remaining token, the index in the untouched sequence whose place it takes.
        medium: Its medium; -1 for text and separators.
        slot: Its slot in that medium's reduced tokens; -1 for text and separators.
        edits: How the sequence came about: for each move the tokens chosen from the sequence before it, and whether
            positions were renumbered then.
    """

    source: Int[np.ndarray, " s"]
    medium: Int[np.ndarray, " s"]
    slot: Int[np.ndarray, " s"]
    edits: tuple[tuple[Int[np.ndarray, " _"], bool], ...] = ()

    def __len__(self) -> int:
        """Tokens that the LLM reads."""
        return self.source.shape[0]

    def positions(self, prompt: Prompt, original: Int[np.ndarray, "r l"]) -> Int[np.ndarray, "r s"]:
        """Position ids of the reduced sequence, from those of the untouched one (one row, or one an axis of M-RoPE)."""
        source, current = np.arange(len(prompt)), original
        for chosen, renumbered in self.edits:
            source, current = source[chosen], current[:, chosen]
            if renumbered:
                current = renumber(original, source, prompt.run)
        return current


def untouched(prompt: Prompt) -> Arrangement:
    """Every token in its place."""
    medium, slot = np.full((2, len(prompt)), TEXT)
    for index, each in enumerate(prompt.media):
        medium[each.visual] = index
        slot[each.visual] = np.arange(len(each.visual))
    return Arrangement(np.arange(len(prompt)), medium, slot)


def in_order(arrangement: Arrangement) -> tuple[Arrangement, list[Int[np.ndarray, " m"]]]:
    """Numbers each medium's slots as they stand in the sequence; also gives the numbers they had, in that order."""
    slot, before = arrangement.slot.copy(), []
    for medium in range(int(arrangement.medium.max()) + 1):
        mine = arrangement.medium == medium
        before.append(slot[mine])
        slot[mine] = np.arange(len(before[-1]))
    return replace(arrangement, slot=slot), before


def arrange(prompt: Prompt, moves: Sequence[Move]) -> Arrangement:
    """Applies a pipeline's reductions to the sequence, one after the other."""
    arrangement = untouched(prompt)
    for move in moves:
        arrangement = advance(prompt, arrangement, move)
    return arrangement


def advance(prompt: Prompt, before: Arrangement, move: Move) -> Arrangement:
    """A slot takes the place of its anchor; text stays, but for the markers of frames that lost every token."""
    kept = before.medium == TEXT
    anchors, owners, slots = [], [], []
    for index, reduction in enumerate(move.reductions):
        mine = np.nonzero(before.medium == index)[0]
        place = np.empty(reduction.num_inputs, dtype=np.int64)  # of each of the medium's tokens, in `before`
        place[before.slot[mine]] = mine
        anchors.append(place[reduction.anchor.cpu().numpy()])
        owners.append(np.full(reduction.num_outputs, index))
        slots.append(np.arange(reduction.num_outputs))
        if move.separators == "follow":
            kept &= ~_orphaned(prompt, prompt.media[index], before.source[anchors[-1]])[before.source]
    text = np.nonzero(kept)[0]
    chosen = np.concatenate([text, *anchors])
    order = np.argsort(chosen, kind="stable")  # raster order; slots that share an anchor keep their own order
    nothing = np.full(len(text), TEXT)
    return Arrangement(
        before.source[chosen[order]],
        np.concatenate([nothing, *owners])[order],
        np.concatenate([nothing, *slots])[order],
        (*before.edits, (chosen[order], move.positions == "renumber")),
    )


def _orphaned(prompt: Prompt, medium: Medium, survivors: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " s"]:
    """Marks the text of the medium's frames in which no token survives."""
    frame_of = np.zeros(len(prompt), dtype=np.int64)
    frame_of[medium.visual] = medium.places[:, 0]
    alive = np.zeros(len(medium.markers), dtype=bool)
    alive[frame_of[survivors]] = True
    orphaned = np.zeros(len(prompt), dtype=bool)
    for spans, lives in zip(medium.markers, alive, strict=True):
        for start, stop in spans:
            orphaned[start:stop] = not lives
    orphaned[medium.separators] = False  # a class token between frames is no text
    return orphaned


def renumber(
    original: Int[np.ndarray, "r l"], source: Int[np.ndarray, " s"], run: Int[np.ndarray, " l"]
) -> Int[np.ndarray, "r s"]:
    """Position ids without gaps for the tokens that are left; the identity where none is missing.

    On one axis tokens are simply counted. Under M-RoPE (the last three rows: time, height, width) the times that are
    left in a run of visual tokens move up to the run's first times, heights and widths stay as they are relative to the
    run, and the text behind it continues at their maximum + 1, as the models count.
    """
    counted = original[:, :1] + np.arange(len(source))
    if original.shape[0] == 1:
        return counted
    axes = original[-3:]
    renumbered = np.empty((3, len(source)), dtype=original.dtype)
    kind = run[source]
    bounds = np.flatnonzero(np.diff(kind, prepend=kind[0] - 1))
    following = axes[:, 0].max()  # the next free position
    for start, stop in zip(bounds, [*bounds[1:], len(source)], strict=True):
        if kind[start] == TEXT:
            renumbered[:, start:stop] = following + np.arange(stop - start)
            following += stop - start
            continue
        whole = axes[:, run == kind[start]]
        origin = whole[:, :1]
        left = axes[:, source[start:stop]] - origin
        times = np.unique(whole[0] - origin[0])
        left[0] = times[np.unique(left[0], return_inverse=True)[1]]
        renumbered[:, start:stop] = left + following
        following += left[1:].max() + 1 + _overhang(axes, run == kind[start], origin)
    return np.concatenate([counted[:-3], renumbered])


def _overhang(axes: Int[np.ndarray, "3 l"], in_run: Bool[np.ndarray, " l"], origin: Int[np.ndarray, "3 1"]) -> int:
    """How much further than height and width the untouched model counts past a run of visual tokens; normally 0."""
    last = np.flatnonzero(in_run)[-1]
    if last + 1 == axes.shape[1]:
        return 0
    return int(axes[:, last + 1].max() - (axes[1:, in_run].max() + 1))


def left_padded(
    rows: Sequence[Int[np.ndarray, " _"]], fill: int = 0
) -> tuple[Int[np.ndarray, "b s"], Int[np.ndarray, "b s"]]:
    """Rows of one batch, each at its right end, and which of the places are not padding."""
    longest = max(map(len, rows))
    batch = np.full((len(rows), longest), fill)
    mask = np.zeros_like(batch)
    for index, row in enumerate(rows):
        batch[index, longest - len(row) :], mask[index, longest - len(row) :] = row, 1
    return batch, mask
