"""The frame-selection stage: which of the candidate frames the vision tower will read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tokenlab.compressors.base import SampleNoise
from tokenlab.compressors.evidence import FrameScores
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import FrameSelection, FrameView
from tokenlab.data.samples import Frames, Sample
from tokenlab.errors import failing_sample
from tokenlab.models.clock import stage
from tokenlab.tokens import Evidence
from tokenlab.trace import AppliedReduction, Trace

FRAME_SCORES = FrameScores("clip")

Score = Callable[[int, Frames], tuple[Float[Tensor, " t"], tuple[int, ...]]]
"""Of one of the media, by its number: how well each frame fits the question, and the lengths of the texts for it."""


def select_from_media(
    candidates: Sequence[Frames], sample: Sample, pipeline: Pipeline, seed: int, score: Score | None
) -> tuple[list[Frames], Trace]:
    """Selects frames video by video; there is nothing to select from in an image.

    Args:
        candidates: The decoded media.
        sample: What is asked about them.
        pipeline: Its frame-selection methods decide, one after the other.
        seed: Of the noise they draw.
        score: Scores the frames of one of the media against the question, where an auxiliary encoder can.

    Returns:
        What the tower will see of each medium, and what was selected and read for it.
    """
    media, trace = list(candidates), Trace()
    for place, method in pipeline.placed(FrameSelection).items():
        for number, frames in enumerate(media):
            if frames.is_image:
                continue
            evidence: dict[Evidence, Float[Tensor, "..."]] = {}
            if score is not None and FRAME_SCORES in method.needs():
                evidence[FRAME_SCORES], texts = score(number, frames)
                trace += Trace(auxiliary_scored=len(frames.numbers), auxiliary_text=texts)
            generator = SampleNoise(seed, sample.uid).generator(place, number, "frames")
            seconds = torch.from_numpy(frames.seconds)
            view = FrameView(len(frames.numbers), seconds, sample.question, evidence, generator)
            with failing_sample(method.name), stage("decide"):
                chosen = method.select_frames(view).settle(method.order, view.num_frames)
            media[number] = frames.at(chosen.anchor.numpy())
            trace += Trace(reductions=(AppliedReduction("frames", method.name, number, chosen),))
    return media, trace
