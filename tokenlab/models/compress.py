"""Reductions on a model that somebody else loaded: its own `generate`, on its own processor's output.

A block covers the thread that opened it and, where that was the main thread, all threads started since that have no
block of their own. Calls on one model wait for one another while a block on it is open.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from types import MethodType
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn
from transformers import PreTrainedModel

from tokenlab.compressors.pipeline import Pipeline, PipelineLike
from tokenlab.compressors.stages import FrameSelection, PixelReduction
from tokenlab.errors import UserError
from tokenlab.models.families import Family
from tokenlab.models.families.support import why_unsupported
from tokenlab.models.generation import Reducer
from tokenlab.models.hf import Decoder, unwrapped, windows_of
from tokenlab.models.hooks import Counted, HookPoint, hooked
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.prompt.split import Pictures
from tokenlab.trace import Trace

Threads = Literal["own", "all"]
"""Whom a block covers: the thread that opened it, or every thread that has no block of its own."""


@dataclass(eq=False)
class _Block:
    """An open `compress` block."""

    model: PreTrainedModel
    reducer: Reducer
    threads: Threads | None
    max_traces: int
    on_trace: Callable[[Trace], None] | None
    traces: list[Trace] = field(default_factory=list)
    is_open: bool = True
    older: WeakSet[threading.Thread] = field(default_factory=lambda: WeakSet(_other_threads()))

    @property
    def is_shared(self) -> bool:
        """Whether other threads may be meant as well."""
        return self.threads != "own"

    def keep(self, traces: Sequence[Trace]) -> None:
        """Hands traces on, or keeps the latest; none of them holds memory of a device."""
        for trace in map(_on_cpu, traces):
            if self.on_trace is not None:
                self.on_trace(trace)
            else:
                self.traces.append(trace)
        del self.traces[: max(0, len(self.traces) - self.max_traces)]


def _other_threads() -> set[threading.Thread]:
    return {*threading.enumerate()} - {threading.current_thread()}


_OWN: ContextVar[tuple[_Block, ...]] = ContextVar("tokenlab_compress", default=())
_SHARED: WeakKeyDictionary[PreTrainedModel, list[_Block]] = WeakKeyDictionary()
_CALLS: WeakKeyDictionary[PreTrainedModel, threading.RLock] = WeakKeyDictionary()
_REGISTRY = threading.RLock()  # again: garbage collection may close a block
_CHANGES = Counted()
_reducing: ContextVar[bool] = ContextVar("tokenlab_reducing", default=False)


@contextmanager
def compress(
    model: nn.Module,
    processor: Any,
    pipeline: PipelineLike,
    questions: Sequence[str] = (),
    seed: int = 0,
    pictures: Pictures | None = None,
    *,
    threads: Threads | None = None,
    max_traces: int = 1000,
    on_trace: Callable[[Trace], None] | None = None,
) -> Iterator[list[Trace]]:
    """While active, `model.generate(**inputs)` reads reduced prompts; afterwards the model is as it was.

    `inputs` are what the checkpoint's own processor made of one prompt or several, padded on the left; what comes back
    is what the model's own `generate` would give: the original prompts in front, lengths as they were asked for. Every
    image and every video is reduced by itself; where frames stand in the prompt as images (LLaVA-1.5, InternVL,
    SmolVLM), nothing tells several images from a video, and `pictures` has to say what they are. Of nested blocks on
    one model the innermost counts, and blocks may be left in any order. Calls on the model wait for one another.

    Args:
        model: A supported family's model, loaded by whom it belongs to; PEFT's or torch.compile's wrapper around it.
        processor: Its processor.
        pipeline: What to do: compressors in order, one of them, or its spelling, such as `"visionzip@0.5"`.
        questions: One a prompt, for methods that look at the question; a call of `generate` may bring its own under
            the same name.
        seed: Of the noise that methods draw.
        pictures: What several pictures of a prompt are, where frames stand in it as images: `images`, or the `frames`
            of one video. A prompt's only picture is an image unless this says `frames`.
        threads: Whom the block covers: the `own` thread, or `all` that have no block of their own. Left out, a block
            that the main thread opens covers the threads started since, and refuses calls of older ones; one that
            another thread opens covers that thread.
        max_traces: How many traces are kept, the latest ones.
        on_trace: Takes each trace in place of the list, for servers.

    Yields:
        A list that gets a trace of every prompt, call after call: what was really removed.

    Raises:
        UserError: If the model is of no supported family, a method cannot run on it, needs the questions or chooses
            frames; and inside the block, from `generate`, for decoding that reduced prompts cannot have, such as beams
            or no cache, and for several pictures in a prompt that may be either; and from whatever would read a prompt
            unreduced, such as `model(**inputs)`.
    """
    inner: PreTrainedModel = unwrapped(model)
    reducer = Reducer(LoadedModel.of(inner, processor, seed), Pipeline.of(pipeline), questions, pictures)
    if threads is None and threading.current_thread() is not threading.main_thread():
        threads = "own"
    _check(reducer, threads, max_traces)
    block, decoder = _Block(inner, reducer, threads, max_traces, on_trace), Decoder.of(inner).module
    guard = HookPoint(decoder, "before", partial(_refuse_unreduced, inner))
    with _CHANGES.use(inner, "generate", lambda: _replace_generate(inner)), hooked(guard, "compress"):
        _open(block)
        try:
            yield block.traces
        finally:
            _close(block)


def _check(reducer: Reducer, threads: str | None, max_traces: int) -> None:
    """Raises UserError for a pipeline or arguments that cannot be."""
    loaded = reducer.loaded
    family, kernel = loaded.family, loaded.config._attn_implementation or "eager"
    for method in reducer.pipeline.active:
        if isinstance(method, FrameSelection):
            raise UserError(
                f"compress: {method.name} chooses frames, which is done before the processor reads them: call "
                "tokenlab.select_frames, and give the processor what it returns"
            )
        if isinstance(method, PixelReduction):
            raise UserError(
                f"compress: {method.name} makes pictures smaller, which is done before the processor reads them: give "
                "the processor smaller ones"
            )
        if reason := why_unsupported(family, method, kernel=kernel, windows=windows_of(loaded.config)):
            raise UserError(f"compress: {reason}")
    if max_traces < 0:
        raise UserError(f"compress: max_traces is {max_traces}, but must be at least 0")
    _check_threads(threads)
    _check_pictures(family, reducer.pictures)


def _check_threads(threads: str | None) -> None:
    if threads not in (None, *get_args(Threads)):
        raise UserError(f"compress: threads={threads!r}: it is 'own', 'all' or left out")


def _check_pictures(family: Family, pictures: str | None) -> None:
    if pictures not in (None, *get_args(Pictures)):
        raise UserError(f"compress: pictures={pictures!r}: it is 'images', 'frames' or left out")
    if pictures == "frames" and not family.frames_share_placeholder:
        raise UserError(f"compress: pictures='frames': in {family.name}'s prompts images are no frames; leave it out")


# --- which block a call belongs to -------------------------------------------------------------------------------


def _open(block: _Block) -> None:
    _OWN.set((*(each for each in _OWN.get() if each.is_open), block))
    if block.is_shared:
        with _REGISTRY:
            _SHARED.setdefault(block.model, []).append(block)


def _close(block: _Block) -> None:
    """Blocks are left in any order, and by any thread: what is closed no longer counts, wherever it is still listed."""
    block.is_open = False
    _OWN.set(tuple(each for each in _OWN.get() if each.is_open))
    if block.is_shared:
        with _REGISTRY:
            _SHARED[block.model].remove(block)


def _own_block(model: PreTrainedModel) -> _Block | None:
    return next((block for block in reversed(_OWN.get()) if block.model is model and block.is_open), None)


def _shared_block(model: PreTrainedModel) -> _Block | None:
    with _REGISTRY:
        return next(reversed(_SHARED.get(model, ())), None)


def _block_of_call(model: PreTrainedModel) -> _Block | None:
    """The block whose thread this is; raises UserError where it may be meant or not."""
    if (own := _own_block(model)) is not None:
        return own
    shared = _shared_block(model)
    if shared is not None and shared.threads is None and threading.current_thread() in shared.older:
        raise UserError(
            "generate: this thread is older than the compress block that the main thread has open on this model, so "
            "that it may be meant or not: give that block threads='all' to reduce here too, or threads='own' not to"
        )
    return shared


def _covers(model: PreTrainedModel) -> bool:
    """Whether what this thread asks of a model is to be reduced."""
    if _own_block(model) is not None:
        return True
    shared = _shared_block(model)
    return shared is not None and (shared.threads == "all" or threading.current_thread() not in shared.older)


# --- what a block does to the model ------------------------------------------------------------------------------


def _replace_generate(model: PreTrainedModel) -> Callable[[], None]:
    """Puts our `generate` on the model; returns what puts back what was there."""
    own = vars(model)
    before = own.get("generate")
    ours = own["generate"] = MethodType(_generate, model)  # a deep copy binds it to itself, and stays plain

    def restore() -> None:
        if own.get("generate") is not ours:  # somebody else put theirs in front, and it stays theirs
            return
        own.pop("generate")
        if before is not None:
            own["generate"] = before

    return restore


def _generate(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
    """What `model.generate` does meanwhile: reduced where a block covers the call, plain beside it."""
    stock_class: Any = type(model)
    stock = stock_class.generate.__get__(model)
    block = _block_of_call(model)
    with _calls_of(model):
        if block is None:
            return stock(*args, **kwargs)
        arguments = inspect.signature(stock).bind_partial(*args).arguments
        before = _reducing.set(True)
        try:
            output, traces = block.reducer.generate(stock, {**arguments, **kwargs})
        finally:
            _reducing.reset(before)
    block.keep(traces)
    return output


def _calls_of(model: PreTrainedModel) -> threading.RLock:
    """What calls on one model wait for: hooks and M-RoPE's offsets are the model's, not a call's."""
    with _REGISTRY:
        return _CALLS.setdefault(model, threading.RLock())


@torch.compiler.disable
def _refuse_unreduced(model: PreTrainedModel, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """At the LLM's entry: raises UserError for a call that a block covers and that did not come through it."""
    if not _reducing.get() and _covers(model):
        raise UserError(
            "compress: inside the block only model.generate(**inputs) is reduced; model(**inputs), or a `generate` "
            "that was bound before the block, would read the whole prompt: call model.generate, or do this outside"
        )


def _on_cpu(trace: Trace) -> Trace:
    reductions = tuple(replace(each, reduction=each.reduction.to("cpu")) for each in trace.reductions)
    return replace(trace, reductions=reductions)
