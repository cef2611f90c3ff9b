"""What is promised between the layers of the LLM, and on its caches."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from tokenlab.compressors.stages import CacheReduction, GridReduction, LayerReduction
from tokenlab.testing.promises.base import MANY, RATIOS, Build, Largest, expect, on_drawn, promise
from tokenlab.testing.views import through_layers, through_steps


@promise(LayerReduction, drawn=True)
def meets_its_budget_behind_the_last_cut(build: Build) -> None:
    """At points that are in the model and in order; the sequence it sees stays as it is."""

    @on_drawn(ratio=RATIOS, frames=st.integers(1, 5), side=st.integers(1, 4), num_layers=st.integers(2, 9))
    def _(ratio: float, frames: int, side: int, num_layers: int) -> None:
        method: Any = build(ratio)
        moments = ["before_attention", "after_attention"]
        points = list(method.points(num_layers))
        order = [(layer, moments.index(moment)) for layer, moment in points]
        expect(order == sorted(set(order)), f"points are not in order: {points}")
        inside = all(0 <= layer < num_layers for layer, _ in points)
        expect(inside, f"points are not in a model of {num_layers} layers: {points}")
        left = frames * side**2
        for view, reduction in through_layers(method, (frames, side, side), num_layers):
            expect(reduction.num_inputs == left, f"layer {view.layer}: num_inputs is not how many tokens there are")
            left = reduction.num_outputs
        kept = method.kept([side**2] * frames)
        if kept is not None or not method.acts_at(GridReduction):
            expect(kept is not None or method.data_decides or method.retention_ratio is None, "kept() is None")
            expect(kept is None or left == kept, f"{left} tokens are left behind the last cut, but kept() says {kept}")


@promise(LayerReduction)
def compares_no_pairs_in_the_LLM(build: Build) -> None:
    """Nothing of n x n for the n visual tokens of a prompt."""
    method: Any = build(0.25)
    if method.all_pairs:
        return
    with Largest() as largest:
        list(through_layers(method, MANY))
    tokens = math.prod(MANY)
    expect(largest.size < tokens**2 // 2, f"{tokens} tokens make a tensor of {largest.size}: set all_pairs")


@promise(CacheReduction)
def a_step_sees_fewer_of_the_cached_tokens(build: Build) -> None:
    """In their order, and none merged."""
    method: Any = build(0.3)
    layers = list(method.cache_layers(6))
    expect(layers == sorted(set(layers)) and all(0 <= layer < 6 for layer in layers), f"cache_layers are {layers}")
    left = []
    for view, reduction in through_steps(method):
        expect(reduction.num_inputs == 30, f"step {view.step}: num_inputs is not how many tokens are cached")
        chosen = reduction.anchor.tolist()
        expect(not reduction.merges and chosen == sorted(set(chosen)), f"step {view.step}: cached tokens move or merge")
        left.append(len(chosen))
    expect(min(left) < 30, "every step sees every cached token")
