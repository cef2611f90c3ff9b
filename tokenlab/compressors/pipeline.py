"""A pipeline: an ordered list of compressors on one model, checked before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TypeVar, Union

from tokenlab.compressors.base import TokenCompressor
from tokenlab.compressors.evidence import LayerAttention, ProjectorInput, StepAttention
from tokenlab.compressors.stages import STAGES, CacheReduction, GridReduction, LayerReduction, Moment, TowerReduction
from tokenlab.errors import UserError, failing_sample
from tokenlab.tokens import Evidence

PipelineLike = Union["Pipeline", TokenCompressor, str, Sequence[TokenCompressor | str]]
"""A pipeline, or what `Pipeline.of` makes one of."""

DEEP = 64
"""Layers of a model in which no two of a method's layers become one."""

Stage = TypeVar("Stage", bound=TokenCompressor)

LATEST, UNROTATED = LayerAttention(), LayerAttention(rotary=False)
NEXT, NEXT_UNROTATED = LayerAttention(layer="next"), LayerAttention(layer="next", rotary=False)


@dataclass(frozen=True)
class Pipeline:
    """Compressors in the order in which they act; the empty pipeline is the untouched model.

    Raises:
        ValueError: If the order cannot work; the message names the order that does.
    """

    compressors: tuple[TokenCompressor, ...] = ()

    def __post_init__(self) -> None:
        """Refuses an order that cannot work."""
        for earlier, later in pairwise(self.compressors):
            if _first_stage(later) < _first_stage(earlier):
                raise ValueError(
                    f"{later.name} acts before {earlier.name} (on {later.stage} against {earlier.stage}); "
                    f"list it first: {_swapped(self.compressors, earlier, later)}"
                )
        inside = [compressor.name for compressor in self.compressors if compressor.acts_at(TowerReduction)]
        if len(inside) > 1:
            raise ValueError(f"{inside[0]} and {inside[1]} both act inside the vision tower: keep one of them")
        ragged = None
        for compressor in self.compressors:
            if compressor.needs_full_grid and ragged is not None:
                raise ValueError(
                    f"{compressor.name} needs all tokens of every frame, but {ragged.name}, listed before it, removes "
                    f"some; list it first: {_swapped(self.compressors, ragged, compressor)}"
                )
            if not compressor.leaves_full_grid:
                ragged = compressor
        self._check_layers()

    def _check_layers(self) -> None:
        """Inside the LLM methods act in the order of its layers, whatever the order of the list."""
        inside = [method for method in self.placed(LayerReduction).values() if not method.acts_at(GridReduction)]
        for later in (method for method in inside if method.needs_full_grid and len(inside) > 1):
            for earlier in inside:
                if _first_point(earlier) < _first_point(later):
                    raise ValueError(
                        f"{later.name} needs all tokens of every frame, but {earlier.name} removes some at an earlier "
                        f"layer: give {later.name} a layer before it"
                    )

    @classmethod
    def of(cls, value: PipelineLike) -> Pipeline:
        """Makes a pipeline of compressors or their spellings, one or several in order; raises UserError if it cannot.

        >>> [each.name for each in Pipeline.of("similarity@0.5+topic@0.25").compressors]
        ['similarity', 'topic']
        """
        if isinstance(value, Pipeline):
            return value
        steps = [value] if isinstance(value, TokenCompressor | str) else list(value)
        compressors: list[TokenCompressor] = []
        for step in steps:
            if not isinstance(step, TokenCompressor | str):
                raise UserError(f"pipeline: {step!r} is no compressor, nor a name of one such as 'topic@0.5'")
            compressors += cls.from_string(step).compressors if isinstance(step, str) else [step]
        try:
            return cls(tuple(compressors))
        except ValueError as error:
            raise UserError(f"pipeline: {error}") from None

    @classmethod
    def from_string(cls, text: str) -> Pipeline:
        """Builds a pipeline from text: `visionzip`, `fastv@0.5`, `similarity@0.25+text@0.5`, or a config's list.

        A name alone keeps half, or what its authors keep where the method knows that.

        Raises:
            UserError: If there is no such compressor, or it cannot be built so.
        """
        from tokenlab.compressors.spelling import parse_pipeline

        return parse_pipeline(text)

    @classmethod
    def from_config(cls, path: str | Path, arm: str) -> Pipeline:
        """Builds one arm of a config, as `validate` would, or of the `config.yaml` that a run leaves.

        Raises:
            UserError: If the file or the arm is not there, or the arm cannot be built.
        """
        from tokenlab.compressors.spelling import load_arm

        return load_arm(path, arm)

    @property
    def active(self) -> tuple[TokenCompressor, ...]:
        """The compressors that are not switched off by `retention_ratio: 1`."""
        return tuple(compressor for compressor in self.compressors if not compressor.is_off)

    def of_stage(self, stage: type[Stage]) -> tuple[Stage, ...]:
        """The active compressors that act at one stage, in order."""
        return tuple(self.placed(stage).values())

    def placed(self, stage: type[Stage]) -> dict[int, Stage]:
        """The active compressors that act at one stage, by their place in the pipeline."""
        listed = enumerate(self.compressors)
        return {
            place: each for place, each in listed if isinstance(each, stage) and each.acts_at(stage) and not each.is_off
        }

    def needs(self) -> frozenset[Evidence]:
        """All evidence that some active compressor looks at, and what it takes to merge before the projector."""
        return self._needs

    @cached_property
    def _needs(self) -> frozenset[Evidence]:
        needs = frozenset().union(*(compressor.needs() for compressor in self.active))
        if any(method.merges_before_projector for method in self.of_stage(GridReduction)):
            needs |= {ProjectorInput()}
        return needs

    def layer_plan(self, num_layers: int) -> LayerPlan:
        """Where the pipeline's methods act inside an LLM of this depth; worked out once."""
        if num_layers not in self._layer_plans:
            self._layer_plans[num_layers] = LayerPlan.of(self, num_layers)
        return self._layer_plans[num_layers]

    @cached_property
    def _layer_plans(self) -> dict[int, LayerPlan]:
        return {}

    def describe(self) -> list[dict[str, dict]]:
        """Names and all hyper-parameters, as a config would spell them."""
        return [{compressor.name: asdict(compressor)} for compressor in self.compressors]


@dataclass(frozen=True)
class LayerPlan:
    """Where the methods of a pipeline act inside an LLM of some depth.

    Attributes:
        layer_methods: Methods that reduce between layers, by their place in the pipeline, in order.
        cache_methods: Methods that choose what decode steps look at, likewise.
        points: By layer and moment, the places of the layer methods that look there.
        cache_points: By layer, the places of the cache methods that choose there.
        first_layer: The first layer that any of them changes or looks at; the LLM's depth where there is none.
        split_layers: Layers in which tokens go between attention and MLP.
        narrowed_layers: Layers whose decode steps may look at a part of their cache.
        prefill_probes: Layers whose attention during prefill some method looks at afterwards.
        unrotated_layers: Likewise, but without rotary embedding: their queries and keys are made once more.
        ahead_layers: Layers whose queries and keys are made for a method before the layer runs.
        decode_probes: Layers whose attention some method looks at during decoding.
        gathered_layers: Layers whose caches keep, behind the prefill, only what is left behind the last cut.
    """

    layer_methods: Mapping[int, LayerReduction]
    cache_methods: Mapping[int, CacheReduction]
    points: Mapping[tuple[int, Moment], tuple[int, ...]]
    cache_points: Mapping[int, tuple[int, ...]]
    first_layer: int
    split_layers: frozenset[int]
    narrowed_layers: frozenset[int]
    prefill_probes: frozenset[int]
    unrotated_layers: frozenset[int]
    ahead_layers: frozenset[int]
    decode_probes: frozenset[int]
    gathered_layers: frozenset[int]

    @classmethod
    def of(cls, pipeline: Pipeline, num_layers: int) -> LayerPlan:
        """Asks every method once."""
        layer_methods, cache_methods = pipeline.placed(LayerReduction), pipeline.placed(CacheReduction)
        points: dict[tuple[int, Moment], tuple[int, ...]] = {}
        cache_points: dict[int, tuple[int, ...]] = {}
        attending: dict[Evidence, set[int]] = defaultdict(set)
        decode_probes, gathered = set(), set()
        for place, method in layer_methods.items():
            with failing_sample(method.name):
                method_points = list(method.points(num_layers))
                gathered.update(method.gathered_caches(num_layers))
            for layer, moment in method_points:
                points[layer, moment] = (*points.get((layer, moment), ()), place)
                for need in method.needs():
                    if isinstance(need, LayerAttention):
                        attending[need].add(attending_layer(need, layer, moment))
        for place, method in cache_methods.items():
            with failing_sample(method.name):
                layers = list(method.cache_layers(num_layers))
            for layer in layers:
                cache_points[layer] = (*cache_points.get(layer, ()), place)
                if StepAttention() in method.needs():
                    decode_probes.add(layer - 1)
        unrotated = frozenset(attending[UNROTATED] - {-1})
        return cls(
            layer_methods,
            cache_methods,
            points,
            cache_points,
            first_layer=min(
                [*(layer for layer, _ in points), *cache_points, *unrotated, *gathered], default=num_layers
            ),
            split_layers=frozenset(layer for layer, moment in points if moment == "after_attention"),
            narrowed_layers=frozenset(range(min(cache_points, default=num_layers), num_layers)),
            prefill_probes=frozenset(attending[LATEST] - {-1}),
            unrotated_layers=unrotated,
            ahead_layers=frozenset(attending[NEXT] | attending[NEXT_UNROTATED]),
            decode_probes=frozenset(decode_probes - {-1}),
            gathered_layers=frozenset(gathered),
        )

    @cached_property
    def needs(self) -> frozenset[Evidence]:
        """All evidence that methods look at between layers."""
        return frozenset().union(*(method.needs() for method in self.layer_methods.values()))

    @property
    def acts(self) -> bool:
        """Whether any method acts inside the LLM."""
        return bool(self.layer_methods or self.cache_methods)

    @property
    def probed_layers(self) -> frozenset[int]:
        """Layers whose attention is recorded or narrowed."""
        prefill = self.prefill_probes | self.unrotated_layers | self.ahead_layers
        return prefill | self.decode_probes | self.narrowed_layers


def attending_layer(need: LayerAttention, layer: int, moment: Moment) -> int:
    """The layer whose attention a method is shown at a point; -1 where none has attended yet."""
    return layer if need.layer == "next" or moment == "after_attention" else layer - 1


def fingerprint(description: object) -> str:
    """A short, stable hash of anything JSON can hold."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _first_stage(compressor: TokenCompressor) -> int:
    return next(index for index, stage in enumerate(STAGES) if compressor.acts_at(stage))


def _first_point(method: LayerReduction) -> tuple[int, bool]:
    """The first layer of a deep model at which a method acts, and whether behind its attention."""
    return min(((layer, moment == "after_attention") for layer, moment in method.points(DEEP)), default=(DEEP, False))


def _swapped(compressors: tuple[TokenCompressor, ...], earlier: TokenCompressor, later: TokenCompressor) -> str:
    """The list with `later` moved before `earlier`, as a reader would type it."""
    names = [compressor.name for compressor in compressors]
    names.remove(later.name)
    names.insert(names.index(earlier.name), later.name)
    return f"[{', '.join(names)}]"
