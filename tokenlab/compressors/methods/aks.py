"""Frame selection by question: *Adaptive Keyframe Sampling for Long Video Understanding* (CVPR 2025, 2502.21271)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tokenlab.compressors import (
    CountedFrames,
    Evidence,
    FrameScores,
    FrameView,
    Preference,
    Reduction,
    Space,
    top,
)


@dataclass(frozen=True, kw_only=True)
class Aks(CountedFrames, name="aks"):
    """Takes the frames that fit the question best, from ever finer halves of the video unless a few stand out.

    Args:
        frames: The authors' budget: how many frames, where `retention_ratio` is `null`; all of a shorter video.
        space: Where frames and question are compared.
        t1: How far the mean of a part's best frames must lie above the part's mean for it to stay whole.
        t2: How large the standard deviation of its scores must be besides; the authors' -100 asks for nothing.
        all_depth: How often the video is halved at most.
    """

    frames: int = 64
    space: Space = "clip"
    t1: float = 0.8
    t2: float = -100.0
    all_depth: int = 5
    paper: ClassVar[str] = "arXiv 2502.21271"
    venue: ClassVar[str] = "CVPR 2025"
    licence: ClassVar[str] = "none found"
    prefers: ClassVar[tuple[Preference, ...]] = ("text",)

    def needs(self) -> frozenset[Evidence]:
        """How well each frame fits the question."""
        return frozenset({FrameScores(self.space)})

    def select_frames(self, view: FrameView) -> Reduction:
        """Every part gives its best frames, fewer the smaller it is."""
        scores = view.evidence[FrameScores(self.space)].cpu().double()
        count = self.count(view.num_frames)
        chosen = torch.zeros(view.num_frames, dtype=torch.bool)
        for depth, start, stop in self.parts(scores, count):
            chosen[start + top(scores[start:stop], count // 2**depth)] = True
        # Released code returns fewer frames where count / 2^depth is no whole number, and none of a part where it is
        # below 1; we halve no further than that and fill up with the best of the rest: the budget is met
        rest = scores.masked_fill(chosen, -torch.inf)
        chosen[top(rest, count - int(chosen.sum()))] = True
        return Reduction.keep(chosen.nonzero().flatten(), view.num_frames)

    def parts(self, scores: Float[Tensor, " t"], count: int) -> list[tuple[int, int, int]]:
        """Depth, first frame and end of the parts that `count` frames are taken from, in time order."""
        low, high = scores.min(), scores.max()
        scores = (scores - low) / (high - low if high > low else 1.0)
        deepest = min(self.all_depth, count.bit_length() - 1)
        parts, open_parts = [], [(0, 0, scores.shape[0])]
        while open_parts:
            depth, start, stop = open_parts.pop()
            part, middle = scores[start:stop], start + (stop - start) // 2
            best = part.topk(min(count, part.shape[0])).values  # as many as the whole video may give, at every depth
            stands_out = best.mean() - part.mean() > self.t1 and part.std(correction=0) > self.t2
            if stands_out or depth == deepest:
                parts.append((depth, start, stop))
            else:
                open_parts += [(depth + 1, middle, stop), (depth + 1, start, middle)]
        return parts
