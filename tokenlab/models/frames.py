"""Frame selection for a processor of one's own: which frames of a video it should read."""

from __future__ import annotations

from pathlib import Path

from tokenlab.compressors.evidence import FrameScores
from tokenlab.compressors.pipeline import Pipeline, PipelineLike
from tokenlab.compressors.stages import FrameSelection
from tokenlab.data.media.video import decode
from tokenlab.data.samples import Frames, Sample
from tokenlab.errors import UserError
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.settings import MLLM
from tokenlab.models.vision.auxiliary import AuxiliaryClip
from tokenlab.models.vision.frame_selection import select_from_media


def select_frames(
    video: str | Path | Frames,
    pipeline: PipelineLike,
    question: str = "",
    num_frames: int = 64,
    seed: int = 0,
    clip: str | AuxiliaryClip | None = None,
) -> Frames:
    """Selects frames of a video, for the processor of a model that is run without the bench.

    Args:
        video: A file, or decoded frames.
        pipeline: Frame-selection methods in order, one of them, or its spelling, such as `"aks@0.25"`.
        question: What is asked about the video, for methods that look at it.
        num_frames: Candidates that are decoded of a file; `retention_ratio` is the share of them that is kept.
        seed: Of the noise that methods draw.
        clip: A CLIP for methods that score frames: a folder or hub id, or one that is loaded already.

    Returns:
        The selected frames, with their true numbers and times: `frames.pixels` is what a processor takes.

    Raises:
        UserError: If a method is of another stage, or needs a CLIP or a question that is not there.
        MediaError: If the file cannot be read.
        SampleError: If a method cannot act on this video.
    """
    pipeline = Pipeline.of(pipeline)
    for method in pipeline.active:
        if not isinstance(method, FrameSelection):
            raise UserError(f"select_frames: {method.name} acts on {method.stage}; use tokenlab.compress for it")
        if any(isinstance(need, FrameScores) for need in method.needs()) and (clip is None or not question):
            raise UserError(
                f"select_frames: {method.name} scores frames against the question: give question=... and clip=..., a "
                "folder or a hub id"
            )
    if num_frames < 1:
        raise UserError(f"select_frames: num_frames is {num_frames}, but must be at least 1")
    frames = video if isinstance(video, Frames) else decode(video, num_frames)
    loaded = AuxiliaryClip(MLLM(checkpoint="", auxiliary={"clip": clip})) if isinstance(clip, str) else clip
    score = EncodeCache(frozenset()).scorer(loaded, "0", [0], question)
    (selected,), _ = select_from_media([frames], Sample("0", "0", question), pipeline, seed, score)
    return selected
