"""What a promise is, and what checks of promises are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn_from
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tokenlab.compressors.base import TokenCompressor

Build = Callable[[float], TokenCompressor]
"""Builds a compressor at a ratio, or at what comes nearest to it."""

RATIOS = st.floats(0.02, 0.99)
MANY = (64, 8, 8)
"""A medium of so many tokens that all pairs of them would show, and be no burden."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class BrokenPromise(AssertionError):
    """A compressor does otherwise than it says."""


def expect(holds: bool, otherwise: str) -> None:
    """Raises BrokenPromise where something does not hold."""
    if not holds:
        raise BrokenPromise(otherwise)


@dataclass(frozen=True)
class Promise:
    """One of them.

    Attributes:
        name: What is promised, in a few words.
        stage: Where a method that promises it acts; TokenCompressor: anywhere.
        check: Raises BrokenPromise, or whatever the method raises.
        drawn: Whether Hypothesis draws what the method is tried on.
        slow: Whether it takes seconds.
    """

    name: str
    stage: type[TokenCompressor]
    check: Callable[[Build], None]
    drawn: bool = False
    slow: bool = False

    def __str__(self) -> str:
        """The words."""
        return self.name


PROMISES: list[Promise] = []


def promises_of(method: TokenCompressor) -> list[Promise]:
    """Those that a method makes, by the stages at which it acts."""
    return [each for each in PROMISES if each.stage is TokenCompressor or method.acts_at(each.stage)]


def promise(stage: type[TokenCompressor], **more: bool) -> Callable[[Callable[[Any], None]], Callable]:
    """Makes a check a promise, in the words of its function's name."""

    def add(check: Callable[[Any], None]) -> Callable:
        PROMISES.append(Promise(getattr(check, "__name__").replace("_", " "), stage, check, **more))  # noqa: B009
        return check

    return add


def on_drawn(**drawn: st.SearchStrategy) -> Callable[[Callable[..., None]], None]:
    """Runs a function on what Hypothesis draws, at once."""
    return lambda function: drawn_from(**drawn)(settings(suppress_health_check=[HealthCheck.too_slow])(function))()


def expect_count(method: TokenCompressor, left: int, sizes: list[int]) -> None:
    """Raises BrokenPromise unless as many are left as `kept` says, or one to all where what the method sees decides."""
    kept, total = method.kept(sizes), sum(sizes)
    if kept is not None:
        expect(left == kept, f"of frames of {sizes} tokens {left} are left, but kept() says {kept}")
        return
    free = method.data_decides or method.budget_unit == "none" or method.retention_ratio is None
    expect(free, "kept() is None, but neither data_decides nor is its budget_unit none")
    expect(1 <= left <= total or total == 0, f"of frames of {sizes} tokens {left} are left")


class Largest(TorchDispatchMode):
    """Notes how much the largest tensor holds that is made meanwhile, in elements."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation, and looks at what it returns."""
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor):
                self.size = max(self.size, each.untyped_storage().nbytes() // each.element_size())
        return out
