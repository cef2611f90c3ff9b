"""One question on its way through an arm: reduced and ready for the LLM, and then answered."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.models.arrangement import Medium, Prompt
from tokenlab.models.encoding import Encoded
from tokenlab.models.entry import Rewrite
from tokenlab.models.passage import Passage
from tokenlab.tensors import MediumShape, Step, Trace


@dataclass(frozen=True)
class Selection:
    """What frame selection made of a question's media.

    Attributes:
        frames: What the tower will see of each medium.
        steps: The reductions.
        scored: How many frames an auxiliary encoder read for it.
        texts: The lengths of the texts that it read.
    """

    frames: list[Frames]
    steps: list[Step]
    scored: int = 0
    texts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Request:
    """One question, reduced and ready for the LLM."""

    sample: Sample
    prompt: Prompt
    encoded: tuple[Encoded, ...]  # its media, in the order of the prompt
    rewrite: Rewrite | None  # None: the untouched model
    passage: Callable[[], Passage] | None  # its way through the LLM, begun anew; None: nothing happens there
    trace: Trace
    encode_milliseconds: float
    compress_milliseconds: float


@dataclass(frozen=True)
class Answer:
    """What one arm made of one sample; `error` is set, and nothing else, where it could not be answered."""

    sample: Sample
    text: str = ""
    ids: tuple[int, ...] = ()
    trace: Trace | None = None
    encode_milliseconds: float = 0.0
    compress_milliseconds: float = 0.0
    prefill_milliseconds: float = 0.0
    decode_milliseconds: float = 0.0
    peak_memory_bytes: int | None = None
    error: str | None = None


def in_order(sample: Sample, clip: Clip) -> tuple[str | int, ...]:
    """The texts, and the numbers of the clip's media, in the order of the prompt."""
    if sample.content is not None:
        return sample.content
    return (*range(len(clip.media or ())), sample.question)


def untouched_medium(candidates: Frames, selected: Frames, encoded: Encoded, medium: Medium) -> MediumShape:
    """The medium as it would be without any reduction, frame selection included: steps in time are all alike."""
    steps = encoded.tokens.grid[0]
    per_step = max(1, round(len(selected.numbers) / steps))  # frames that the tower takes together
    scale = (
        math.ceil(len(candidates.numbers) / per_step) / steps if len(candidates.numbers) > len(selected.numbers) else 1
    )
    return MediumShape(round(len(medium.visual) * scale), len(medium.separators), candidates.still)


def finished(trace: Trace, passage: Passage | None, generated: int) -> Trace:
    """The request's trace, with what happened inside the LLM."""
    trace = replace(trace, generated_tokens=generated)
    if passage is None:
        return trace
    return replace(
        trace,
        steps=(*trace.steps, *passage.steps),
        attention_tokens=tuple(passage.attention),
        mlp_tokens=tuple(passage.behind),
        decode_sight=tuple(passage.sight[: generated - 1]),
        rotated_tokens=passage.rotated,
    )
