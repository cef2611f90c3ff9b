"""The stopwatch: where the time of one query goes, if somebody measures it.

The model side says what it is doing (`with stage("tower"):`); nothing happens there unless a stopwatch runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from tokenlab.trace import synchronise

Stage = Literal["processing", "tower", "auxiliary", "decide", "apply", "prompt", "prefill", "decode"]


class Stopwatch:
    """Divides the time of one query among its stages: at each moment one of them runs, and the innermost is charged.

    The device is waited for wherever one stage gives way to another.

    Args:
        device: Where the model is.

    Attributes:
        milliseconds: By stage; `prompt` is whatever no stage claims.
        steps: Milliseconds of each decode step.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.milliseconds: dict[Stage, float] = {}
        self.steps: list[float] = []
        self._stage: Stage | None = "prompt"
        synchronise(device)
        self._began = self._step = time.perf_counter()

    def switch(self, stage: Stage | None) -> Stage | None:
        """Charges what ran so far, and lets another stage run, or none; returns the one that did."""
        synchronise(self.device)
        before, now = self._stage, time.perf_counter()
        if before is not None:
            self.milliseconds[before] = self.milliseconds.get(before, 0.0) + 1000 * (now - self._began)
        self._stage, self._began = stage, now
        return before

    def step(self) -> None:
        """The LLM has computed a token: the first ends the prefill, each other one a decode step."""
        first = self._stage == "prefill"
        self.switch("decode")
        if not first:
            self.steps.append(1000 * (self._began - self._step))
        self._step = self._began


class StepClock(LogitsProcessor):
    """Tells a stopwatch of each token; changes nothing."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def __call__(self, input_ids: Int[Tensor, "b s"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """The logits of a token are there."""
        self.watch.step()
        return scores


_RUNNING: ContextVar[Stopwatch | None] = ContextVar("tokenlab_stopwatch", default=None)


def running() -> Stopwatch | None:
    """The stopwatch that runs, if there is one."""
    return _RUNNING.get()


@contextmanager
def stopwatch(device: torch.device) -> Iterator[Stopwatch]:
    """Runs a stopwatch while active."""
    watch = Stopwatch(device)
    before = _RUNNING.set(watch)
    try:
        yield watch
    finally:
        watch.switch("prompt")
        _RUNNING.reset(before)


@contextmanager
def stage(name: Stage | None) -> Iterator[None]:
    """While active, a stopwatch that runs charges this stage, or none; afterwards, the one that it interrupted."""
    watch = running()
    if watch is None:
        yield
        return
    before = watch.switch(name)
    try:
        yield
    finally:
        watch.switch(before)
