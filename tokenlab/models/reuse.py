"""Whether tokens that were chosen for one question serve the next one about the same media."""

from __future__ import annotations

from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import CacheReduction, LayerReduction
from tokenlab.data.samples import Clip, Sample
from tokenlab.errors import SampleError
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.request import Answer


def answer_with_tokens_of(
    first: Sample, loaded: LoadedModel, clip: Clip, sample: Sample, pipeline: Pipeline, cache: EncodeCache
) -> Answer | None:
    """Answers a question with the visual tokens, and by the noise, that a pipeline chose for another one.

    Args:
        first: The question that they were chosen for.
        loaded: The model.
        clip: What both are about.
        sample: The question.
        pipeline: What chose them.
        cache: What arms and questions share.

    Returns:
        None where it is the same question, or tokens are chosen inside the LLM, which reads the question itself.
    """
    if first.uid == sample.uid or pipeline.of_stage(LayerReduction) or pipeline.of_stage(CacheReduction):
        return None
    try:
        (answer,) = loaded.generate([loaded.prepare(clip, sample, pipeline, cache, chosen_for=first)])
    except SampleError as error:
        return Answer(sample, error=str(error))
    return answer
