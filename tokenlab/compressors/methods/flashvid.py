"""Diverse tokens and trees over time: *FlashVID: Efficient Video LLMs via Training-Free Tree-Based Token Merging*.

ICLR 2026, arXiv 2602.08024.
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
    cluster,
    farthest_first,
    in_medium,
    means,
    neighbour_cosine,
    scaled_layer,
    segments_between,
    spans,
    top,
)

NEIGHBOURS = 7
"""Of a token, from which its density is measured; fewer, where there are fewer clusters."""


@dataclass(frozen=True, kw_only=True)
class FlashVid(TwoStage, name="flashvid"):
    """Keeps diverse, attended tokens of each frame, merges trees of the others over time, and cuts again in the LLM.

    Args:
        expansion: What the grid leaves besides, to be cut in the LLM.
        layer: At the entry of which of 28 layers.
        alpha: The share of a frame's budget for diverse tokens.
        weigh: Whether diversity is weighed by attention alone (the first version), or by fit to the scene as well.
        link: Cosine above which a token joins the most similar one of the frame before.
        segments: Scenes there are at least.
        tau: Cosine of neighbouring frames below which a scene ends.
        noise: Added to densities at most.
    """

    outer: float = 0.25
    inner: float = 0.3
    expansion: float = 1.25
    layer: int = 20
    alpha: float = 0.7
    weigh: Literal["attention", "attention_and_scene"] = "attention_and_scene"
    link: float = 0.8
    segments: int = 8
    tau: float = 0.9
    noise: float = 1e-6
    paper: ClassVar[str] = "arXiv 2602.08024"
    venue: ClassVar[str] = "ICLR 2026"
    licence: ClassVar[str] = "MIT"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention", "diversity")
    kind: ClassVar[ReductionKind] = "both"
    in_tower: ClassVar[Evidence] = TowerAttention(layer=-1, query="mean")
    in_llm: ClassVar[Evidence] = LayerAttention()

    def __post_init__(self) -> None:
        """Refuses a share that is none."""
        super().__post_init__()
        self.check_shares("alpha")

    @property
    def to_cut(self) -> float:
        """The grid leaves more than its share."""
        return self.inner * self.expansion

    def reduce_grid(self, view: GridView) -> Reduction:
        """Scene by scene, diverse tokens as they are and what trees and clusters leave of the others."""
        frames = view.tokens.as_frames().float()
        total, tokens = frames.shape[:2]
        of_frames = frames.mean(dim=1)
        similarity = neighbour_cosine(of_frames[:, None])[:, 0]
        scenes = spans(segments_between(similarity, self.segments, self.tau), total)
        keep = min(tokens, math.ceil(tokens * self.outer_share * self.expansion))
        diverse = math.ceil(keep * self.alpha)
        attention = view.evidence[self.in_tower].reshape(total, tokens).float()
        parts = []
        for first, stop in scenes:
            scene = frames[first:stop]
            chosen = self._diverse(scene, attention[first:stop], of_frames[first:stop], diverse)
            index = torch.arange(first * tokens, stop * tokens, device=frames.device)
            parts.append((Reduction.keep(in_medium(chosen.sort(dim=1).values, tokens), len(index)), index))
            is_left = torch.ones_like(attention[first:stop], dtype=torch.bool)
            if len(scene) > 1:  # in a scene of one frame released code merges diverse tokens as well
                is_left.scatter_(1, chosen, False)
            parts.append((self._merged(scene, is_left, keep - diverse, view.generator), index))
        return Reduction.cat(parts, total * tokens).in_place()

    def _diverse(
        self,
        scene: Float[Tensor, "w n d"],
        attention: Float[Tensor, "w n"],
        of_frames: Float[Tensor, "w d"],
        count: int,
    ) -> Int[Tensor, "w count"]:
        """Max-min by distances that grow with the weight of the token to come."""
        unit = normalize(scene, dim=-1)
        weight = attention * 1e6
        if self.weigh == "attention_and_scene":
            weight = weight * (scene @ of_frames.T).mean(dim=-1)
        return farthest_first((1 - unit @ unit.mT) * weight[:, None], count)

    def _merged(
        self, scene: Float[Tensor, "w n d"], is_left: Bool[Tensor, "w n"], count: int, generator: torch.Generator
    ) -> Reduction:
        """Trees of tokens that repeat those of the frame before, and then so many clusters of a frame's roots."""
        trees, frame = self._trees(scene, is_left, count)
        wanted = count * len(scene)
        if wanted >= trees.num_outputs:
            return trees
        values, parts = trees.apply(scene.flatten(0, 1)), []
        for number in range(len(scene)):
            index = (frame == number).nonzero()[:, 0]
            if clusters := -(-len(index) * wanted // trees.num_outputs):  # rounded up, without an error in the quotient
                centres, label = cluster(values[index], clusters, min(clusters, NEIGHBOURS), self.noise, generator)
                parts.append((means(centres, label), index))
        if not parts:
            return trees.then(Reduction.keep(trees.anchor[:0], trees.num_outputs))
        return trees.then(Reduction.cat(parts, trees.num_outputs))

    def _trees(
        self, scene: Float[Tensor, "w n d"], is_left: Bool[Tensor, "w n"], count: int
    ) -> tuple[Reduction, Int[Tensor, " m"]]:
        """One slot a root, and its frame: the sum of its tree, divided by one and the number of its own children."""
        width, tokens = is_left.shape
        place = torch.arange(width * tokens, device=scene.device).unflatten(0, (width, tokens))
        unit = normalize(scene, dim=-1)
        similarity = (unit[1:] @ unit[:-1].mT).masked_fill(~is_left[:-1, None], -torch.inf)
        best, parent = similarity.max(dim=-1)
        best = best.masked_fill(~is_left[1:], -torch.inf)
        linked = best > self.link
        most = max(0, int(is_left.sum()) - count * width)  # so that enough roots are left
        if int(linked.sum()) > most:
            linked = best > best.flatten().topk(most + 1).values[-1]
        root, children = place.clone(), torch.zeros_like(place)
        for frame in range(1, width):
            joins, above = linked[frame - 1], parent[frame - 1]
            root[frame] = torch.where(joins, root[frame - 1][above], root[frame])
            children[frame - 1].index_add_(0, above, joins.long())
        member = place[is_left]
        anchor, slot = root[is_left].unique(return_inverse=True)
        weight = 1 / (1 + children.flatten()[anchor][slot].float())
        # a slot of one token is a sum as well: its token may be kept besides
        return Reduction.merge(anchor, slot, member, weight, width * tokens), anchor // tokens

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Once, at the entry of the layer."""
        return [(scaled_layer(self.layer, 28, num_layers), "before_attention")]

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Keeps what the last token attends to most."""
        attention = view.from_last(self.in_llm)
        count = max(1, math.ceil(len(attention) * self.inner_share))
        return Reduction.keep(top(attention, count), len(attention)), state
