"""What is promised on the token grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenlab.compressors.stages import GridReduction
from tokenlab.reduction import Reduction
from tokenlab.testing.promises.base import DTYPES, MANY, RATIOS, Build, Largest, expect, expect_count, on_drawn, promise
from tokenlab.testing.views import Grid, cast, grid_view


@promise(GridReduction, drawn=True)
def meets_its_budget(build: Build) -> None:
    """By its own rounding, on grids of any size."""

    @on_drawn(ratio=RATIOS, frames=st.integers(1, 7), rows=st.integers(1, 5), columns=st.integers(1, 5))
    def _(ratio: float, frames: int, rows: int, columns: int) -> None:
        method: Any = build(ratio)
        view = grid_view(method, (frames, rows, columns))
        reduction = method.reduce_grid(view).settle(method.order)
        expect(reduction.num_inputs == view.tokens.num_tokens, "num_inputs is not how many tokens there are")
        expect_count(method, reduction.num_outputs, [rows * columns] * frames)


@promise(GridReduction, drawn=True)
def meets_its_budget_on_mosaics(build: Build) -> None:
    """Frames of several shapes; and of those some tokens, where the method does not need them all."""
    if build(0.5).temporal:  # frames of a video are of one shape
        return

    shapes_of_frames = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5)

    @on_drawn(ratio=RATIOS, shapes=shapes_of_frames, seed=st.integers(0, 9))
    def _(ratio: float, shapes: list[tuple[int, int]], seed: int) -> None:
        method: Any = build(ratio)
        whole = grid_view(method, (len(shapes), 5, 5), seed)
        frame, row, column = whole.tokens.places.unbind(1)
        rows, columns = torch.tensor(shapes)[frame].unbind(1)
        left = (row < rows) & (column < columns)
        if not method.needs_full_grid:
            left &= (torch.rand(len(left), generator=torch.Generator().manual_seed(seed)) < 0.7) | ((row + column) == 0)
        tokens = whole.tokens.reduce(Reduction.keep(left.nonzero()[:, 0], len(left)))
        reduction = method.reduce_grid(replace(whole, tokens=tokens)).settle(method.order)
        expect_count(method, reduction.num_outputs, tokens.frame.unique(return_counts=True)[1].tolist())
        if method.budget_unit == "frame":
            frames = tokens.reduce(reduction).frame.unique().tolist()
            expect(frames == list(range(len(shapes))), "its budget_unit is frame, but a frame loses all of its tokens")


@promise(GridReduction)
def leaves_whole_frames_where_it_says_so(build: Build) -> None:
    """And only there."""
    method: Any = build(0.4)
    view = grid_view(method)
    reduced = view.tokens.reduce(method.reduce_grid(view).settle(method.order))
    try:
        reduced.as_frames()
        is_whole = True
    except ValueError as error:
        expect("ragged" in str(error), f"what is left is on no grid: {error}")
        is_whole = False
    if method.leaves_full_grid or reduced.num_tokens == view.tokens.num_tokens:
        expect(is_whole, "leaves_full_grid is set, but frames lose some of their tokens")
    else:
        expect(not is_whole, "only whole frames go: set leaves_full_grid")


@promise(GridReduction)
def works_in_half_precision_and_leaves_its_input_alone(build: Build) -> None:
    """In bfloat16 and float16."""
    method: Any = build(0.4)
    for dtype in DTYPES:
        view = cast(grid_view(method), dtype)
        before = view.tokens.values.clone()
        reduced = view.tokens.reduce(method.reduce_grid(view).settle(method.order))
        expect(torch.equal(view.tokens.values, before), f"in {dtype} it changes the tokens it was given")
        expect(reduced.values.dtype == dtype, f"in {dtype} reduced tokens are {reduced.values.dtype}")
        expect(bool(torch.isfinite(reduced.values).all()), f"in {dtype} reduced tokens are not finite")


EXTREMES: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": torch.ones_like,
    "zero": torch.zeros_like,
    "huge": lambda values: values * 1e18,
    "equal in every frame": lambda values: values[:, :1, :1].expand_as(values),
}
"""Tokens in which there is nothing to tell apart, or too much."""


@promise(GridReduction)
def leaves_finite_tokens_of_extreme_ones(build: Build) -> None:
    """Constant, duplicate, zero, huge and single ones."""
    method: Any = build(0.4)
    for kind, change in EXTREMES.items():
        for grid in ((1, 1, 1), (4, 3, 4)):
            view = grid_view(method, grid)
            values = change(view.tokens.values.reshape(*grid, -1)).flatten(0, 2)
            same = {need: values if value is view.tokens.values else value for need, value in view.evidence.items()}
            tokens = replace(view.tokens, values=values, evidence=same)
            reduction = method.reduce_grid(replace(view, tokens=tokens)).settle(method.order)
            finite = torch.isfinite(reduction.weight).all() and torch.isfinite(reduction.apply(values)).all()
            expect(bool(finite), f"tokens that are {kind}, on a grid of {grid}, become infinite or no number")
            expect_count(method, reduction.num_outputs, [grid[1] * grid[2]] * grid[0])


VERY_MANY = (512, 14, 14)


@promise(GridReduction)
def compares_no_pairs_of_all_tokens(build: Build) -> None:
    """Nothing of n x n for the n tokens of a medium."""
    _expect_no_pairs(build(0.25), MANY)


@promise(GridReduction, slow=True)
def reads_a_hundred_thousand_tokens(build: Build) -> None:
    """And makes nothing of n x n for them, which no memory would hold."""
    compares_no_pairs_of_all_tokens(build)
    _expect_no_pairs(build(0.25), VERY_MANY)


def _expect_no_pairs(method: Any, grid: Grid) -> None:
    if method.all_pairs:
        return
    view, tokens = grid_view(method, grid), math.prod(grid)
    with Largest() as largest:
        method.reduce_grid(view)
    expect(largest.size < tokens**2 // 8, f"{tokens} tokens make a tensor of {largest.size}: set all_pairs")
