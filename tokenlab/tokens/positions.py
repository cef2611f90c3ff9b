"""Position ids of reduced prompts, on one axis or on the three of M-RoPE."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

TEXT = -1
"""The run, and the medium, of a token that is text."""


def renumber(
    original: Int[Tensor, "axes l"], origin: Int[Tensor, " s"], run: Int[Tensor, " l"]
) -> Int[Tensor, "axes s"]:
    """Makes position ids without gaps for the tokens that are left; the identity where none is missing.

    On one axis tokens are simply sequential. Under M-RoPE (the last three rows: time, height, width) the times that are
    left in a run of visual tokens move up to the run's first times, heights and widths stay as they are relative to the
    run, and the text behind it continues at their maximum + 1, as the models count.

    Args:
        original: Position ids of the untouched prompt.
        origin: For each token that is left, its index in the untouched prompt.
        run: For each token of the untouched prompt the number of its run of visual tokens; -1 for text.
    """
    sequential = original[:, :1] + torch.arange(len(origin))
    if original.shape[0] == 1:
        return sequential
    axes, kind = original[-3:], run[origin]
    renumbered = torch.empty((3, len(origin)), dtype=original.dtype)
    following = int(axes[:, 0].max())  # the next free position
    _, lengths = kind.unique_consecutive(return_counts=True)
    stops = lengths.cumsum(0).tolist()
    for start, stop in zip([0, *stops], stops, strict=False):
        if kind[start] == TEXT:
            renumbered[:, start:stop] = following + torch.arange(stop - start)
            following += stop - start
            continue
        in_run = run == kind[start]
        whole = axes[:, in_run]
        first = whole[:, :1]
        left = axes[:, origin[start:stop]] - first
        left[0] = (whole[0] - first[0]).unique()[left[0].unique(return_inverse=True)[1]]
        renumbered[:, start:stop] = left + following
        following += int(left[1:].max()) + 1 + _temporal_excess(axes, in_run)
    return torch.cat([sequential[:-3], renumbered])


def _temporal_excess(axes: Int[Tensor, "3 l"], in_run: Bool[Tensor, " l"]) -> int:
    """Under M-RoPE text resumes at max(t, h, w) + 1. Returns how far t exceeds h and w there.

    Renumbering keeps the same offset.
    """
    last = int(in_run.nonzero()[-1])
    if last + 1 == axes.shape[1]:
        return 0
    return int(axes[:, last + 1].max() - (axes[1:, in_run].max() + 1))
