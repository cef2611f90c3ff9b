"""The trace: what was really done to one sample by one arm. Counts, ratios, FLOPs and pictures are computed from it.

Every stage hands on a trace of its own part; the parts add up.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields

import torch

from tokenlab.reduction import Reduction

KEPT, GATHERED, MERGED, DROPPED = "#+-."
"""A token's fate: it stays as it is, it stands for several, it went into another, or it is gone."""

BlockTokens = tuple[tuple[int, int], ...]
"""Per tower block: (tokens into attention, tokens into MLP) of one frame, and at the end what is left, twice.

Empty when no method acts in the tower.
"""


@dataclass(frozen=True)
class AppliedReduction:
    """One reduction as it was applied to one medium of a prompt, and the FLOPs of deciding it.

    Of frames, before the tower, it says which are left; of their pixels, how many tokens of how many come of a smaller
    size, and how many fewer separators. Of all else, what becomes of which token.
    """

    stage: str
    compressor: str
    medium: int
    reduction: Reduction
    layer: int | None = None
    drops_separators: bool = False
    flops: int = 0
    fewer_separators: int = 0


@dataclass(frozen=True)
class MediumTrace:
    """The size of one medium before any reduction.

    Attributes:
        grid_tokens: Tokens on its token grid, had no frame been left out or made smaller.
        separators: Visual tokens outside the grid, such as newlines.
        is_image: Whether it is an image.
        frames: Numbers of the frames that were encoded.
        shapes: Rows and columns of each frame of the token grid that they became.
        shown: Height and width of pictures that were made smaller; empty where they have their own size.
    """

    grid_tokens: int
    separators: int = 0
    is_image: bool = False
    frames: tuple[int, ...] = ()
    shapes: tuple[tuple[int, int], ...] = ()
    shown: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Visual tokens of the untouched medium."""
        return self.grid_tokens + self.separators


@dataclass(frozen=True)
class Trace:
    """What one sample and one arm came to; traces of parts of the way add up.

    Attributes:
        media: The media before any reduction.
        reductions: The reductions, in the order in which they were applied.
        prompt_tokens: Length of the sequence that the untouched model would read.
        prefill_tokens: Length of the sequence that the LLM read.
        grids: Per medium, its token grid as the tower made it, after frame selection and at the size that was shown.
        passes: Per medium, runs of the tower: one a frame, a tile or a few frames together.
        tower_tokens: Per medium, the tokens of one frame in each block of the tower.
        projector_tokens: Tokens merged before the projector, which read each of them besides all patches.
        generated_tokens: Tokens produced, the end-of-sequence token included.
        auxiliary_frames: Frames whose patches an auxiliary encoder read for this arm.
        auxiliary_scored: Frames that an auxiliary encoder read as a whole.
        auxiliary_text: Lengths of the texts that an auxiliary encoder read.
        auxiliary_pooled: Passes of the tower that an auxiliary pooling head looked at.
        attention_tokens: Tokens that each layer's attention read at prefill. Empty: `prefill_tokens` in all layers.
        cached_tokens: Tokens of the prompt that each layer's cache keeps for the steps. Empty: those that it read.
        mlp_tokens: Tokens that each layer's MLP read at prefill. Empty: `prefill_tokens` in all layers.
        visible_tokens: `visible_tokens[step][layer]`, cache entries that a decode step attends to. Empty: all.
        rope_recomputed: Tokens whose rotary embedding was computed anew between layers at prefill.
        rope_recomputed_per_step: The same at each decode step.
        evidence_flops: FLOPs of what methods were shown at prefill: rows of attention, queries and keys made again.
        step_flops: By decode step, FLOPs of what methods were shown and of their decisions.
        left: Per medium, all reductions of its token grid as one. Empty: nothing was reduced.
    """

    media: tuple[MediumTrace, ...] = ()
    reductions: tuple[AppliedReduction, ...] = ()
    prompt_tokens: int = 0
    prefill_tokens: int = 0
    grids: tuple[tuple[int, int, int], ...] = ()
    passes: tuple[int, ...] = ()
    tower_tokens: tuple[BlockTokens, ...] = ()
    projector_tokens: int = 0
    generated_tokens: int = 0
    auxiliary_frames: int = 0
    auxiliary_scored: int = 0
    auxiliary_text: tuple[int, ...] = ()
    auxiliary_pooled: int = 0
    attention_tokens: tuple[int, ...] = ()
    cached_tokens: tuple[int, ...] = ()
    mlp_tokens: tuple[int, ...] = ()
    visible_tokens: tuple[tuple[int, ...], ...] = ()
    rope_recomputed: int = 0
    rope_recomputed_per_step: int = 0
    evidence_flops: int = 0
    step_flops: tuple[int, ...] = ()
    left: tuple[Reduction, ...] = ()

    def __add__(self, later: Trace) -> Trace:
        """Adds the trace of a later part of the way: counts are summed, lists are joined."""
        return Trace(**{each.name: getattr(self, each.name) + getattr(later, each.name) for each in fields(Trace)})

    @property
    def method_flops(self) -> int:
        """FLOPs of the methods' own work, in matrix products as torch counts them."""
        return self.evidence_flops + sum(applied.flops for applied in self.reductions) + sum(self.step_flops)

    def fates(self, number: int) -> str:
        """What became of each token on a medium's token grid, in raster order, a letter a token."""
        num_tokens = sum(rows * columns for rows, columns in self.media[number].shapes)
        if not self.left:
            return KEPT * num_tokens
        left, fates = self.left[number], [DROPPED] * num_tokens
        for token in left.member.tolist():
            fates[token] = MERGED
        for token, members in zip(left.anchor.tolist(), left.lengths.tolist(), strict=True):
            fates[token] = GATHERED if members else KEPT
        return "".join(fates)

    @property
    def choice(self) -> str:
        """A hash that is the same where the same tokens of the same frames are left, with the same ones merged."""
        chosen = hashlib.blake2b(digest_size=8)
        for medium in self.media:
            chosen.update(repr((medium.frames, medium.shapes)).encode())
        for reduction in self.left:
            for part in (reduction.anchor, reduction.member, reduction.lengths):
                chosen.update(repr(part.tolist()).encode())
        return chosen.hexdigest()

    @property
    def visual_tokens_in(self) -> int:
        """Visual tokens of the untouched media."""
        return sum(medium.num_tokens for medium in self.media)

    @property
    def visual_tokens_out(self) -> int:
        """Visual tokens that are left of the prompt when the last layer has read it."""
        return self.visual_tokens_after(len(self.reductions))

    def visual_tokens_after(self, num_reductions: int) -> int:
        """Visual tokens left after the first `num_reductions` reductions."""
        left = [medium.grid_tokens for medium in self.media]
        outside = [medium.separators for medium in self.media]
        for number, applied in enumerate(self.reductions[:num_reductions], 1):
            if applied.stage == "frames":
                left[applied.medium] = self._tokens_of_frames(number, applied.medium)
            else:
                left[applied.medium] = applied.reduction.num_outputs
                outside[applied.medium] -= applied.fewer_separators
            if applied.drops_separators and not applied.reduction.is_identity:
                outside[applied.medium] = 0
        return sum(left) + sum(outside)

    def _tokens_of_frames(self, number: int, medium: int) -> int:
        """Tokens of the frames that are left of a medium behind so many reductions, before they are made smaller."""
        later = (each for each in self.reductions[number:] if (each.stage, each.medium) == ("pixels", medium))
        smaller = next(later, None)
        return math.prod(self.grids[medium]) if smaller is None else smaller.reduction.num_inputs


def synchronise(device: torch.device) -> None:
    """Waits until a device is done, so that a clock reads the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
