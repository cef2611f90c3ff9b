"""From reductions to the sequence the LLM reads: which tokens, in which order, at which positions.

Pure index arithmetic on one prompt, on the CPU; `entry.py` carries it out on the embedded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from tokenlab.models.prompts import Prompt
from tokenlab.tensors import Reduction


@dataclass(frozen=True)
class Move:
    """One reduction of the prompt's medium and how its method treats positions and frame markers."""

    reduction: Reduction
    positions: Literal["keep", "renumber"]
    separators: Literal["follow", "keep"]


@dataclass(frozen=True)
class Arrangement:
    """The reduced sequence.

    Attributes:
        source: For each remaining token, the index in the untouched sequence whose place it takes.
        positions: Its position id.
        slot: Its slot in the reduced medium; -1 for text and separators.
    """

    source: Int[np.ndarray, " s"]
    positions: Int[np.ndarray, " s"]
    slot: Int[np.ndarray, " s"]

    def __len__(self) -> int:
        """Tokens that the LLM reads."""
        return self.source.shape[0]


def untouched(prompt: Prompt) -> Arrangement:
    """Every token in its place."""
    index = np.arange(len(prompt))
    slot = np.full(len(prompt), -1)
    slot[prompt.visual] = np.arange(len(prompt.visual))
    return Arrangement(index, index, slot)


def arrange(prompt: Prompt, moves: Sequence[Move]) -> Arrangement:
    """Applies a pipeline's reductions to the sequence, one after the other."""
    arrangement = untouched(prompt)
    for move in moves:
        arrangement = _apply(prompt, arrangement, move)
    return arrangement


def _apply(prompt: Prompt, before: Arrangement, move: Move) -> Arrangement:
    """A slot takes the place of its anchor; text stays, but for the markers of frames that lost every token."""
    place = np.empty(move.reduction.num_inputs, dtype=np.int64)  # of each of the medium's tokens, in `before`
    is_visual = before.slot >= 0
    place[before.slot[is_visual]] = np.nonzero(is_visual)[0]
    anchors = place[move.reduction.anchor.cpu().numpy()]
    text = np.nonzero(~is_visual)[0]
    if move.separators == "follow":
        text = text[~_orphaned(prompt, before.source[anchors])[before.source[text]]]
    chosen = np.concatenate([text, anchors])
    slot = np.concatenate([np.full(len(text), -1), np.arange(len(anchors))])
    order = np.argsort(chosen, kind="stable")  # raster order; slots that share an anchor keep their own order
    chosen = chosen[order]
    positions = before.positions[chosen]
    if move.positions == "renumber":
        positions = np.arange(len(chosen)) + before.positions[0]
    return Arrangement(before.source[chosen], positions, slot[order])


def _orphaned(prompt: Prompt, survivors: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " s"]:
    """Marks the text of frames in which no token survives."""
    per_frame = len(prompt.visual) // len(prompt.markers)
    frame_of = np.full(len(prompt), -1)
    frame_of[prompt.visual] = np.arange(len(prompt.visual)) // per_frame
    alive = np.zeros(len(prompt.markers), dtype=bool)
    alive[frame_of[survivors]] = True
    orphaned = np.zeros(len(prompt), dtype=bool)
    for (start, stop), lives in zip(prompt.markers, alive, strict=True):
        orphaned[start:stop] = not lives
    return orphaned
