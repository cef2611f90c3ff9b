"""Pipelines that the model side is tried with: all methods, compositions of stages, and stubs that act everywhere."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import pytest
import torch

from tests.models.harness import EACH_KIND, VIDEO_FAMILIES, WHOLE
from tokenlab.compressors import REGISTRY, Pipeline, TokenCompressor
from tokenlab.compressors.stages import CacheReduction, LayerReduction, TowerReduction
from tokenlab.models.families import FAMILIES, Family
from tokenlab.models.families.support import why_unsupported
from tokenlab.reduction import Reduction

SUBSET = (
    "visionzip",
    "joint",
    "joint other",
    "frames then grid",
    "merge, pool, prune",
    "similarity other positions",
    "fastv other positions",
    "framefusion",
    "grid, layers, cache",
    "tome",
    "tower, then grid",
    "backwards",
    "vanishing",
)
"""The pipelines that are tried on every family; the others on each kind."""


@dataclass(frozen=True, kw_only=True)
class Thinning(LayerReduction):
    """Drops every third token, wherever it looks; without evidence, whose products would be counted."""

    name: ClassVar[str] = "thinning"
    at: tuple[tuple[int, str], ...] = ()

    def points(self, num_layers):
        return self.at

    def reduce_layer(self, view, state):
        tokens = view.visual.shape[0]
        left = [i for i in range(tokens) if i % 3 != 2]
        return Reduction.keep(torch.tensor(left), tokens), state


@dataclass(frozen=True, kw_only=True)
class ThinningTower(TowerReduction):
    """Drops every fourth patch of every frame in every block."""

    name: ClassVar[str] = "thinning_tower"

    def reduce_block(self, view, state):
        tokens = torch.arange(view.size.numel()).reshape(view.size.shape)
        patch = torch.arange(view.size.shape[1]) - view.protected
        return Reduction.keep(tokens[:, (patch < 0) | (patch % 4 != 3)].flatten(), view.size.numel()), state


def thinning(*at, **kwargs) -> Thinning:
    return Thinning(retention_ratio=0.5, at=at, **kwargs)


@dataclass(frozen=True, kw_only=True)
class Backwards(LayerReduction):
    """Keeps every second token at the entry of the second layer, the last one first."""

    name: ClassVar[str] = "backwards"
    order: ClassVar[str] = "rank"

    def points(self, num_layers):
        return [(1, "before_attention")]

    def reduce_layer(self, view, state):
        tokens = view.visual.shape[0]
        return Reduction.keep(torch.arange(0, tokens, 2).flip(0), tokens), state


def spelled(method: TokenCompressor) -> dict:
    """A method's hyper-parameters, as far as they are not the default."""
    return {each.name: value for each in fields(method) if (value := getattr(method, each.name)) != each.default}


DRIVEN = sorted(
    name for name, method in REGISTRY.items() if not why_unsupported(FAMILIES["llava"], method.example(0.4))
)
"""The methods that the model side can run without further encoders."""

PIPELINES = {
    **{name: ((name, spelled(REGISTRY[name].example(0.4))),) for name in DRIVEN},
    **{f"random in the {at}": (("random", {"retention_ratio": 0.4, "at": at}),) for at in ("layers", "cache")},
    **{
        f"{name} other positions": ((name, {"retention_ratio": 0.4, "positions": positions}),)
        for name, positions in (
            ("similarity", "keep"),
            ("topic", "renumber"),
            ("random", "renumber"),
            ("pool", "renumber"),
            ("fastv", "renumber"),
        )
    },
    "tome other positions": (("tome", {"retention_ratio": 0.4, "positions": "renumber"}),),
    "tome, authors' budget": (("tome", {"r": 9, "inflect": -0.5}),),
    "tower, then grid": (("tome", {"retention_ratio": 0.6}), ("topic", {"retention_ratio": 0.5})),
    "tower, grid, layers": (
        ("tome", {"retention_ratio": 0.8}),
        ("text", {"retention_ratio": 0.7, "positions": "renumber"}),
        ("fastv", {"retention_ratio": 0.5}),
    ),
    "frames, tower": (("frame_stride", {"retention_ratio": 0.5}), ("tome", {"retention_ratio": 0.5})),
    "dtd by pixels": (("dtd", {"by": "pixels", "mode": "relative"}),),
    "dtd by pixels, to a ratio": (("dtd", {"by": "pixels", "retention_ratio": 0.4}),),
    "framefusion, authors' budget": (("framefusion", {"cost": 0.3, "separators": "follow"}),),
    "two in the layers": (("framefusion", {"retention_ratio": 0.6}), ("fastv", {"retention_ratio": 0.3})),
    "grid, layers, cache": (
        ("similarity", {"retention_ratio": 0.6}),
        ("fastv", {"retention_ratio": 0.7}),
        ("half_sight", {"retention_ratio": 0.5}),
    ),
    "backwards": (("backwards", {"retention_ratio": 0.5, "positions": "renumber"}),),
    "backwards, positions kept": (("backwards", {"retention_ratio": 0.5}),),
    "by sight": (("by_sight", {"retention_ratio": 0.5}),),
    "by sight, renumbered, then in the LLM": (
        ("by_sight", {"retention_ratio": 0.5, "positions": "renumber"}),
        ("fastv", {"retention_ratio": 0.5}),
    ),
    "pairing": (("pairing", {"retention_ratio": 0.5}),),
    "pairing, renumbered": (("pairing", {"retention_ratio": 0.5, "positions": "renumber"}),),
    "pairing, then fastv, then the cache": (
        ("pairing", {"retention_ratio": 0.5}),
        ("fastv", {"retention_ratio": 0.4}),
        ("half_sight", {"retention_ratio": 0.5}),
    ),
    "vanishing": (("vanishing", {"retention_ratio": 0.5}),),
    "vanishing, separators kept": (("vanishing", {"retention_ratio": 0.5, "separators": "keep"}),),
    "vanishing, separators dropped": (("vanishing", {"retention_ratio": 0.5, "separators": "drop"}),),
    "vanishing other positions": (("vanishing", {"retention_ratio": 0.5, "positions": "renumber"}),),
    "similarity separators kept": (("similarity", {"retention_ratio": 0.4, "separators": "keep"}),),
    "joint": (("similarity", {"retention_ratio": 0.5}), ("text", {"retention_ratio": 0.4})),
    "joint other": (("differential", {"retention_ratio": 0.5}), ("topic", {"retention_ratio": 0.3})),
    "frames then grid": (("frame_stride", {"retention_ratio": 0.5}), ("random", {"retention_ratio": 0.4})),
    "merge twice": (("differential", {"retention_ratio": 0.6}), ("similarity", {"retention_ratio": 0.5})),
    "merge, pool, prune": (
        ("similarity", {"retention_ratio": 0.6}),
        ("pool", {"retention_ratio": 0.5}),
        ("random", {"retention_ratio": 0.2}),
    ),
}


@dataclass(frozen=True, kw_only=True)
class HalfSight(CacheReduction):
    """Every second visual token, others in every other step, from the second layer on."""

    name: ClassVar[str] = "half_sight"

    def cache_layers(self, num_layers):
        return [1]

    def reduce_cache(self, view, state):
        tokens = view.visual.shape[0]
        return Reduction.keep(torch.arange(view.step % 2 if tokens > 1 else 0, tokens, 2), tokens), state


@dataclass(frozen=True, kw_only=True)
class Vanishing(LayerReduction):
    """Drops every visual token at the entry of the second layer."""

    name: ClassVar[str] = "vanishing"

    def points(self, num_layers):
        return [(1, "before_attention")]

    def reduce_layer(self, view, state):
        return Reduction.keep(view.visual[:0], view.visual.shape[0]), state


@dataclass(frozen=True, kw_only=True)
class BySight(TowerReduction):
    """Keeps, behind every second block, what [CLS] looks at most and has long values and is near a frame's middle."""

    name: ClassVar[str] = "by_sight"
    order: ClassVar[str] = "rank"
    moment: ClassVar[str] = "after_block"
    looks_at_cls: ClassVar[bool] = True

    def reduce_block(self, view, state):
        frames, tokens = view.size.shape
        if view.layer % 2:
            return Reduction.identity(frames * tokens), state
        row, column = view.places // view.grid[1], view.places % view.grid[1]
        distance = (row - view.grid[0] / 2).abs() + (column - view.grid[1] / 2).abs()
        scores = view.cls_attention * view.values.norm(dim=-1).mean(-1) / (1 + distance)
        scores[view.places < 0] = torch.inf
        kept = scores.argsort(dim=1, descending=True, stable=True)[:, : view.protected + tokens // 2]
        return Reduction.keep((kept + tokens * torch.arange(frames)[:, None]).flatten(), frames * tokens), state


@dataclass(frozen=True, kw_only=True)
class Pairing(LayerReduction):
    """Averages pairs of neighbours twice, each weighing as much as the tokens it stands for; unevenly, to be seen."""

    name: ClassVar[str] = "pairing"
    proportional_attention: ClassVar[bool] = True

    def points(self, num_layers):
        return [(1, "before_attention"), (2, "after_attention")]

    def reduce_layer(self, view, state):
        tokens = view.visual.shape[0]
        first = torch.arange(0, tokens, 2)
        first = first[first < 2 * (tokens // 3)]  # the last third stays as it is
        slots = torch.arange(len(first)).repeat(2)
        members = torch.cat([first, first + 1])
        rest = torch.arange(int(members.max()) + 1 if len(members) else 0, tokens)
        return Reduction.merge(torch.cat([first, rest]), slots, members, torch.full((len(slots),), 0.5), tokens), state


def build(methods) -> Pipeline:
    own = (HalfSight, Vanishing, Backwards, Pairing, BySight)
    known = {**REGISTRY, **{method.name: method for method in own}}
    return Pipeline(tuple(known[name](**arguments) for name, arguments in methods))


def possible(family: Family, pipelines: Mapping[str, Pipeline]) -> dict[str, Pipeline]:
    """Those that a family can have."""
    return {
        name: pipeline
        for name, pipeline in pipelines.items()
        if not any(why_unsupported(family, compressor) for compressor in pipeline.compressors)
    }


def tiers(pipelines: Mapping[str, Pipeline], families=VIDEO_FAMILIES, everywhere=None, daily=None) -> list:
    """Pipelines by family: each on one of WHOLE every day; the others that can have it in the matrix.

    Args:
        pipelines: What is tried, by name.
        families: Where.
        everywhere: What is tried on every family, the others on each kind; left out, all are.
        daily: What is tried every day, the others in the matrix alone; left out, all are.
    """
    cases = []
    for number, name in enumerate(sorted(pipelines)):
        able = [family for family in families if possible(FAMILIES[family], {name: pipelines[name]})]
        homes = [family for family in WHOLE if family in able]
        home = homes[number % len(homes)] if daily is None or name in daily else None
        tried = able if everywhere is None or name in everywhere else [family for family in able if family in EACH_KIND]
        cases += [pytest.param(f, name, marks=[] if f == home else pytest.mark.matrix) for f in tried]
    return sorted(cases, key=lambda case: families.index(case.values[0]))  # a family's are tried one after another
