"""Frames: segments of a video, and indices within a frame as indices into the medium."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenlab.functional.merging import means
from tokenlab.reduction import Reduction


def in_medium(index: Int[Tensor, "t k"], tokens: int) -> Int[Tensor, " t*k"]:
    """Turns indices within each frame of so many tokens into indices into the medium.

    >>> in_medium(torch.tensor([[0, 2], [1, 2]]), tokens=3)
    tensor([0, 2, 4, 5])
    """
    return (index + torch.arange(index.shape[0], device=index.device)[:, None] * tokens).flatten()


def neighbour_cosine(frames: Float[Tensor, "t n d"]) -> Float[Tensor, "gaps n"]:
    """Computes the cosine of every token and the one in its place in the frame before, without normalising copies.

    >>> neighbour_cosine(torch.tensor([[[2.0, 0.0]], [[3.0, 0.0]], [[0.0, 1.0]]]))
    tensor([[1.],
            [0.]])
    """
    norm = frames.norm(dim=-1).clamp(min=1e-8)
    return (frames[1:] * frames[:-1]).sum(dim=-1) / (norm[1:] * norm[:-1])


def segment_starts(change: Float[Tensor, " gaps"], segments: int) -> Int[Tensor, " segments"]:
    """Cuts T frames into segments before the highest of T-1 scores of change; returns each segment's first frame.

    >>> segment_starts(torch.tensor([0.1, 0.9, 0.2]), segments=2)
    tensor([0, 2])
    """
    cuts = torch.argsort(change, descending=True, stable=True)[: segments - 1] + 1
    return torch.cat([cuts.new_zeros(1), cuts.sort().values])


def segments_between(similarity: Float[Tensor, " gaps"], at_least: int, below: float) -> Int[Tensor, " segments"]:
    """Cuts frames wherever neighbours are less alike than a bound, and at the least similar ones until that is enough.

    Args:
        similarity: Of each frame and the one before it.
        at_least: Segments there are, where there are so many frames.
        below: Similarity below which there is a cut.

    Returns:
        Each segment's first frame.

    >>> segments_between(torch.tensor([0.99, 0.2, 0.95]), at_least=3, below=0.9)
    tensor([0, 2, 3])
    """
    segments = max(int((similarity < below).sum()) + 1, min(at_least, len(similarity) + 1))
    return segment_starts(-similarity, segments)


def spans(starts: Int[Tensor, " segments"], frames: int) -> list[tuple[int, int]]:
    """Lists the first frame of each segment, and the frame behind its last.

    >>> spans(torch.tensor([0, 2]), frames=5)
    [(0, 2), (2, 5)]
    """
    return list(pairwise([*starts.tolist(), frames]))


def averaged(places: Int[Tensor, " p"], frames: int, tokens: int) -> Reduction:
    """Averages all frames at some places into one token each, anchored in the first frame; all else goes.

    >>> averaged(torch.tensor([1]), frames=2, tokens=2).apply(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor([3.])
    """
    if frames == 1:
        return Reduction.keep(places, tokens)
    member = in_medium(places.expand(frames, -1), tokens)
    slot = torch.arange(len(places), device=places.device).repeat(frames)
    weight = torch.full_like(member, 1 / frames, dtype=torch.float32)
    return Reduction.merge(places, slot, member, weight, frames * tokens)


def mean_segments(starts: Int[Tensor, " k"], frames: int, tokens: int) -> Reduction:
    """Averages each segment's frames position by position into one frame, anchored at the segment's first frame.

    A segment of one frame is left as it is.

    >>> mean_segments(torch.tensor([0]), frames=2, tokens=1).apply(torch.tensor([[1.0], [3.0]]))
    tensor([[2.]])
    """
    lengths = torch.diff(starts, append=starts.new_tensor([frames]))
    segment = torch.arange(starts.shape[0], device=starts.device).repeat_interleave(lengths)  # of each frame
    position = torch.arange(tokens, device=starts.device)
    anchor = (starts[:, None] * tokens + position).flatten()
    return means(anchor, (segment[:, None] * tokens + position).flatten())
