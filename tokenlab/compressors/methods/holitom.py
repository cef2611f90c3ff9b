"""Windows without redundancy: *HoliTom: Holistic Token Merging for Fast Video Large Language Models* (NeurIPS 2025).

arXiv 2505.21334.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors import (
    Evidence,
    GridView,
    LayerAttention,
    LayerView,
    Moment,
    Preference,
    Reduction,
    ReductionKind,
    State,
    TowerAttention,
    TwoStage,
    averaged,
    blend,
    cluster,
    neighbour_cosine,
    rest_of,
    scaled_layer,
    top,
)


@dataclass(frozen=True, kw_only=True)
class HoliTom(TwoStage, name="holitom"):
    """Averages what stands still over the best windows of frames, thins out all else, and merges again in the LLM.

    Args:
        layer: At the entry of which of 28 layers.
        tau: Cosine above which a place stands still from frame to frame.
        beta: Weight of a token on the grid in what others are merged into it; `null`: the plain mean of all.
        neighbours: Of a token, from which its density is measured.
        max_window: Frames of a window at most.
        noise: Added to densities at most.
    """

    outer: float = 0.15
    inner: float = 0.5
    layer: int = 18
    tau: float = 0.8
    beta: float | None = 0.6
    neighbours: int = 7
    max_window: int = 1024
    noise: float = 1e-6
    paper: ClassVar[str] = "arXiv 2505.21334"
    venue: ClassVar[str] = "NeurIPS 2025"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    kind: ClassVar[ReductionKind] = "both"
    order: ClassVar[Literal["raster", "rank"]] = "rank"
    all_pairs: ClassVar[bool] = True
    in_tower: ClassVar[Evidence] = TowerAttention(layer=-1, query="mean")
    in_llm: ClassVar[Evidence] = LayerAttention()

    def reduce_grid(self, view: GridView) -> Reduction:
        """Window by window: what stands still, and then frame by frame what moves."""
        frames = view.tokens.as_frames().float()
        total, tokens = frames.shape[:2]
        steady = neighbour_cosine(frames) > self.tau
        windows, repeated = best_windows(steady, self.max_window)
        share = min(1.0, self.outer_share * total * tokens / (total * tokens - repeated))
        attention = view.evidence[self.in_tower].reshape(total, tokens)
        parts = []
        for first, stop in windows:
            stands = steady[first : stop - 1].all(dim=0) & (stop - first > 1)
            index = torch.arange(first * tokens, stop * tokens, device=frames.device).unflatten(0, (-1, tokens))
            parts.append((self._static(frames[first:stop], stands, share, view.generator), index.flatten()))
            moving = (~stands).nonzero()[:, 0]
            count = math.ceil(len(moving) * share)
            for frame in range(first, stop):
                stays = moving[top(attention[frame, moving], count)]
                parts.append((Reduction.keep(stays, tokens), index[frame - first]))
        return Reduction.cat(parts, total * tokens)

    def _static(
        self, frames: Float[Tensor, "w n d"], stands: Bool[Tensor, " n"], share: float, generator: torch.Generator
    ) -> Reduction:
        """Means over a window, merged into the densest of them."""
        means = averaged(stands.nonzero()[:, 0], *frames.shape[:2])
        values, count = means.apply(frames.flatten(0, 1)), round(means.num_outputs * share)
        if count == 0:
            return means.then(Reduction.keep(means.anchor[:0], means.num_outputs))
        centres, label = cluster(values, count, self.neighbours, self.noise, generator)
        order = centres.sort()
        label, others = order.indices.argsort()[label], rest_of(centres, len(label))
        has_others = label[others].bincount(minlength=count) > 0
        own = torch.where(has_others, self.beta, 1.0) if self.beta else 1 / label.bincount(minlength=count)
        return means.then(blend(order.values, label[others], others, own, 1 - own, means.num_outputs))

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Once, at the entry of the layer."""
        return [(scaled_layer(self.layer, 28, num_layers), "before_attention")]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Keeps what the last token attends to most, and folds each other token into the kept one most like it."""
        attention = view.from_last(self.in_llm)
        kept = top(attention, max(1, round(len(attention) * self.inner_share)))
        return folded(kept, view.hidden[view.visual]), state


def best_windows(steady: Bool[Tensor, "gaps n"], longest: int) -> tuple[list[tuple[int, int]], int]:
    """Divides frames into windows in which as many tokens as possible stand still and need be kept only once.

    Returns:
        First frame of each window and the frame behind its last; and how many tokens need not be kept.
    """
    total = len(steady) + 1
    repeats = {}  # by first frame and the frame behind the last
    throughout = steady
    for length in range(2, min(longest, total) + 1):
        for first, places in enumerate(throughout.sum(dim=1).tolist()):
            repeats[first, first + length] = places * (length - 1)
        throughout = throughout[:-1] & steady[length - 1 :]
    best, begins = [0] * (total + 1), [0] * (total + 1)
    for stop in range(1, total + 1):
        best[stop], begins[stop] = best[stop - 1], stop - 1
        for first in range(stop - 2, max(-1, stop - longest - 1), -1):
            if best[first] + repeats[first, stop] > best[stop]:
                best[stop], begins[stop] = best[first] + repeats[first, stop], first
    windows, stop = [], total
    while stop:
        windows.append((begins[stop], stop))
        stop = begins[stop]
    return windows[::-1], best[total]


def folded(kept: Int[Tensor, " m"], values: Float[Tensor, "n d"]) -> Reduction:
    """Folds every other token, one after the other, half and half into the kept token most like it."""
    unit = normalize(values.float(), dim=-1)
    goes = rest_of(kept, len(values))
    slot, order = (unit[goes] @ unit[kept].mT).argmax(dim=1).sort(stable=True)
    goes, count = goes[order], slot.bincount(minlength=len(kept))
    rank = torch.arange(len(goes), device=kept.device) - (count.cumsum(0) - count)[slot]
    grows = (count > 0).nonzero()[:, 0]
    member, slots = torch.cat([kept[grows], goes]), torch.cat([grows, slot])
    weight = torch.cat([0.5 ** count[grows], 0.5 ** (count[slot] - rank)])
    return Reduction.merge(kept, slots, member, weight, len(values))
