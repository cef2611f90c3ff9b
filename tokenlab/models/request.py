"""One question on its way through an arm: reduced and ready for the LLM, and then answered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from tokenlab.compressors.pipeline import Pipeline
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.errors import SampleError
from tokenlab.models.families.base import Kind
from tokenlab.models.prompt.reduced import ReducedPrompt
from tokenlab.models.vision.encode import Encoded, joint_needs
from tokenlab.models.vision.evidence import POOLED
from tokenlab.models.vision.processing import MediumSize
from tokenlab.tokens.sequence import Medium, Prompt
from tokenlab.trace import MediumTrace, Trace


@dataclass(frozen=True)
class Request:
    """One question, reduced and ready for the LLM.

    Attributes:
        sample: The question.
        pipeline: What reduces it.
        prompt: What the LLM reads.
        trace: What was done so far.
    """

    sample: Sample
    pipeline: Pipeline
    prompt: ReducedPrompt
    trace: Trace


@dataclass(frozen=True)
class Answer:
    """What one arm made of one sample; `error` is set, and nothing else, where it could not be answered.

    Attributes:
        sample: The question.
        text: The answer.
        ids: Its token ids, the end of sequence included.
        trace: What was done.
        padding: Places of the batch that this prompt did not fill.
        error: Why there is no answer.
    """

    sample: Sample
    text: str = ""
    ids: tuple[int, ...] = ()
    trace: Trace | None = None
    padding: int = 0
    error: str | None = None


def in_order(sample: Sample, clip: Clip) -> tuple[str | int, ...]:
    """The texts, and the numbers of the clip's media, in the order of the prompt."""
    if sample.content is not None:
        return sample.content
    return (*range(len(clip.media or ())), sample.question)


def check_texts(content: Sequence[str | int], processor: Any) -> None:
    """Raises SampleError for texts that cannot be asked: empty ones, or some with a placeholder for a medium."""
    texts = [part for part in content if isinstance(part, str)]
    if not "".join(texts).strip():
        raise SampleError("the question is empty")
    for word in (getattr(processor, f"{kind}_token", None) for kind in get_args(Kind)):
        if word and any(word in text for text in texts):
            raise SampleError(f"the question contains the placeholder {word!r}")


def encode_trace(encoded: Sequence[Encoded], selected: Sequence[Frames], pipeline: Pipeline) -> Trace:
    """What the encoders did for an arm."""
    needs = pipeline.needs()
    return Trace(
        grids=tuple(each.tokens.grid for each in encoded),
        passes=tuple(each.processed.passes for each in encoded),
        tower_tokens=tuple(each.tower.tokens if each.tower else () for each in encoded),
        auxiliary_frames=_pictures(encoded, selected) if joint_needs(needs) else 0,
        auxiliary_pooled=sum(each.processed.passes for each in encoded) if needs & POOLED else 0,
        evidence_flops=sum(each.evidence_flops(needs) for each in encoded),
    )


def _pictures(encoded: Sequence[Encoded], selected: Sequence[Frames]) -> int:
    """Pictures that an auxiliary encoder was shown: frames, or the tiles that an image was cut into."""
    media = zip((each.processed for each in encoded), selected, strict=True)
    return sum(medium.passes if medium.in_tiles else len(frames.numbers) for medium, frames in media)


def original_size(
    candidates: Frames, selected: Frames, encoded: Encoded, medium: Medium, lost: MediumSize
) -> MediumTrace:
    """Token count of the medium had no frame been dropped, and none been made smaller.

    Extrapolated over frames: every time step has the same number of tokens.

    Args:
        candidates: All frames there were to choose from.
        selected: Those that were chosen.
        encoded: What the tower made of these.
        medium: Where they are in the prompt.
        lost: What it lost there by showing smaller pictures.
    """
    time_steps = encoded.tokens.grid[0]
    per_step = max(1, round(len(selected.numbers) / time_steps))  # frames that the tower takes together
    scale = 1.0
    if len(candidates.numbers) > len(selected.numbers):
        scale = math.ceil(len(candidates.numbers) / per_step) / time_steps
    return MediumTrace(
        round((len(medium.visual) + lost.grid_tokens) * scale),
        len(medium.separators) + lost.separators,
        candidates.is_image,
        selected.numbers,
        encoded.processed.frame_shapes,
        () if selected.size == candidates.size else selected.size,
    )


def missing_tokens(
    candidates: Sequence[Frames],
    before: Sequence[MediumTrace],
    prompt: Prompt,
    markers: Sequence[Sequence[int]],
    lost: Sequence[MediumSize],
) -> int:
    """Prompt tokens of the frames that frame selection left out, and of what smaller pictures do not show.

    Args:
        candidates: All frames of each medium.
        before: Its size with all of them.
        prompt: The prompt of the chosen ones.
        markers: For each medium, tokens of the text before each of its candidates.
        lost: What each medium lost by showing smaller pictures.
    """
    tokens = sum(each.text_tokens for each in lost)
    for whole, trace, medium, lengths in zip(candidates, before, prompt.media, markers, strict=True):
        tokens += trace.num_tokens - len(medium.visual) - len(medium.separators)
        by_number = zip(whole.numbers, lengths, strict=True)
        tokens += sum(length for number, length in by_number if number not in trace.frames)
    return tokens
