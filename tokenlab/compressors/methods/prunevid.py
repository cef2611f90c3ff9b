"""Static and moving clusters: *PruneVid: Visual Token Pruning for Efficient Video Large Language Models* (ACL 2025).

arXiv 2412.16117.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors import (
    BudgetUnit,
    Evidence,
    GridReduction,
    GridView,
    LayerAttention,
    LayerReduction,
    LayerView,
    Moment,
    Preference,
    Reduction,
    ReductionKind,
    State,
    averaged,
    cluster,
    means,
    scaled_layer,
    top_per_frame,
)

FEW = 14
"""Tokens that are not clustered."""


@dataclass(frozen=True, kw_only=True)
class PruneVid(GridReduction, LayerReduction, name="prunevid"):
    """Averages what stands still over scenes, clusters all, and keeps in the LLM what the question attends to.

    Args:
        segments: Scenes there are at most, as a share of the frames.
        tau: Mean cosine of a scene's frames at a place above which the place stands still.
        clusters: The share of tokens that clustering leaves.
        neighbours: Of a token or frame, from which its density is measured.
        alpha: The share of each cluster set that is left in the LLM.
        layer: Behind which of 32 layers.
        noise: Added to densities at most.
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    segments: float = 0.25
    tau: float = 0.8
    clusters: float = 0.5
    neighbours: int = 7
    alpha: float = 0.4
    layer: int = 10
    noise: float = 1e-6
    paper: ClassVar[str] = "arXiv 2412.16117"
    venue: ClassVar[str] = "ACL 2025 Findings"
    licence: ClassVar[str] = "CC-BY-NC-SA-4.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("novelty", "attention")
    kind: ClassVar[ReductionKind] = "both"
    order: ClassVar[Literal["raster", "rank"]] = "rank"
    budget_unit: ClassVar[BudgetUnit] = "none"
    has_native_budget: ClassVar[bool] = True
    temporal: ClassVar[bool] = True
    needs_full_grid: ClassVar[bool] = True
    attention: ClassVar[Evidence] = LayerAttention()

    @property
    def positions_inside(self) -> Literal["keep", "renumber"]:
        """The LLM's cut leaves positions as the grid's left them."""
        return "keep"

    def reduce_grid(self, view: GridView) -> Reduction:
        """Scene by scene: what stands still, and then frame by frame what moves; each such set has a tag of its own."""
        frames = view.tokens.as_frames().float()
        total, tokens = frames.shape[:2]
        parts, sets = [], 0
        for first, stop in self.scenes(frames.mean(dim=1), view.generator):
            stands = stands_still(frames[first:stop]) > self.tau
            index = torch.arange(first * tokens, stop * tokens, device=frames.device).unflatten(0, (-1, tokens))
            static = averaged(stands.nonzero()[:, 0], stop - first, tokens)
            moving = Reduction.keep((~stands).nonzero()[:, 0], tokens)
            for decided, where in [(static, index.flatten()), *((moving, each) for each in index)]:
                values = decided.apply(frames.flatten(0, 1)[where])
                decided = decided.then(self._clustered(values, sets, view.generator))
                parts.append((decided, where))
                sets += 1
        return Reduction.cat(parts, total * tokens)

    def scenes(self, frames: Float[Tensor, "t d"], generator: torch.Generator) -> list[tuple[int, int]]:
        """First frame of each scene, and the frame behind its last."""
        count = max(1, int(len(frames) * self.segments))
        _, label = cluster(frames, count, self.neighbours, self.noise, generator)
        lengths = [len(list(run)) for _, run in groupby(whole_scenes(label.tolist()))]
        stops = list(accumulate(lengths))
        return [(stop - length, stop) for stop, length in zip(stops, lengths, strict=True)]

    def _clustered(self, values: Float[Tensor, "n d"], tag: int, generator: torch.Generator) -> Reduction:
        """The mean of each cluster, the best first; few tokens stay as they are."""
        total = len(values)
        if total <= FEW:
            left = Reduction.keep(torch.arange(total, device=values.device), total)
        else:
            count = max(1, int(total * self.clusters))
            left = means(*cluster(values, count, self.neighbours, self.noise, generator))
        return replace(left, tag=torch.full_like(left.anchor, tag))

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Once, behind the layer."""
        return [(scaled_layer(self.layer + 1, 32, num_layers), "before_attention")]

    def gathered_caches(self, num_layers: int) -> range:
        """Every layer below the cut forgets what goes there."""
        return range(scaled_layer(self.layer + 1, 32, num_layers))

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Keeps, of every set, what some word of the question attends to most in some head."""
        received = view.evidence[self.attention].received(view.question, heads="max", over="max")[view.visual]
        sets = view.medium.tag if view.medium.tag is not None else torch.zeros_like(view.visual)
        kept = (sets.bincount() * self.alpha).long()
        return Reduction.keep(top_per_frame(received, sets, kept), len(received)), state


def stands_still(frames: Float[Tensor, "w n d"]) -> Float[Tensor, " n"]:
    """The mean cosine of all pairs of frames, place by place; minus infinity where there is one frame."""
    count = len(frames)
    if count == 1:
        return torch.full_like(frames[0, :, 0], -torch.inf)
    return (normalize(frames, dim=-1).sum(dim=0).square().sum(dim=-1) - count) / (count * (count - 1))


def whole_scenes(label: list[int]) -> list[int]:
    """Gives every label to its longest runs alone, longer than one; all else joins the longer run beside it.

    >>> whole_scenes([0, 0, 1, 0, 2, 2, 2])
    [0, 0, 2, 2, 2, 2, 2]
    """
    runs = [(key, len(list(run))) for key, run in groupby(label)]
    longest = {key: max(length for other, length in runs if other == key) for key, _ in runs}
    stays = [1 < length == longest[key] for key, length in runs]
    scenes = []
    for number, (_, length) in enumerate(runs):
        left = next((run for run, stay in zip(runs[number::-1], stays[number::-1], strict=True) if stay), (0, 0))
        right = next((run for run, stay in zip(runs[number:], stays[number:], strict=True) if stay), (0, 0))
        scenes += [max(left, right, key=lambda run: run[1])[0]] * length  # of equal ones the left
    return scenes
