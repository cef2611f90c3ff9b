"""What compressors of every stage promise."""

from __future__ import annotations

import dataclasses
import inspect
import math
from dataclasses import replace
from typing import Any

import torch

from tokenlab.compressors.base import TokenCompressor
from tokenlab.compressors.stages import STAGES, GridReduction
from tokenlab.reduction import Reduction
from tokenlab.testing.promises.base import DTYPES, BrokenPromise, Build, expect, promise
from tokenlab.testing.views import decisions, grid_view


@promise(TokenCompressor)
def is_frozen_and_documented(build: Build) -> None:
    """Hyper-parameters alone, which never change, and a first line for tables."""
    cls = type(build(0.5))
    frozen = dataclasses.is_dataclass(cls) and getattr(cls, "__dataclass_params__").frozen  # noqa: B009
    expect(bool(frozen), f"{cls.__name__} is no frozen dataclass: put @dataclass(frozen=True, kw_only=True) above it")
    expect(any(issubclass(cls, stage) for stage in STAGES), f"{cls.__name__} is of no stage")
    line = (inspect.getdoc(cls) or "").partition("\n")[0]
    own = "__doc__" in vars(cls) and not (vars(cls)["__doc__"] or "").startswith(f"{cls.__name__}(")
    expect(own and 0 < len(line) <= 120, "its docstring has no first line of at most 120 characters")
    expect(build(0.5) == build(0.5), "built twice from the same arguments, it is not equal")


@promise(TokenCompressor)
def refuses_impossible_budgets(build: Build) -> None:
    """With the name of what is wrong."""
    method = build(0.5)
    for ratio in (0.0, -0.5, 1.0001, math.nan, math.inf):
        try:
            replace(method, retention_ratio=ratio)
        except ValueError as error:
            expect("retention_ratio" in str(error), f"at retention_ratio {ratio} it says {error}, not which is wrong")
        else:
            raise BrokenPromise(f"retention_ratio {ratio} is accepted: call super().__post_init__() in yours")


@promise(TokenCompressor)
def decides_the_same_twice(build: Build) -> None:
    """In every precision; what it decided of other samples leaves no trace."""
    method: Any = build(0.3)
    for dtype in DTYPES:
        first = decisions(method, dtype)
        if method.acts_at(GridReduction):
            method.reduce_grid(grid_view(method, (3, 2, 5), seed=5, uid="another"))
        for one, other in zip(first, decisions(method, dtype), strict=True):
            expect(is_same(one, other), f"in {dtype} the same tokens are reduced otherwise the second time")


def is_same(one: Reduction, other: Reduction) -> bool:
    """Whether two reductions are equal, bit by bit."""
    return all(torch.equal(getattr(one, each), getattr(other, each)) for each in ("anchor", "member", "weight"))
