"""Latency: arms in random order on the same questions, each from decoded frames on, stage by stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch

from tokenlab.compressors.pipeline import Pipeline
from tokenlab.data.samples import Clip, Sample
from tokenlab.errors import SampleError
from tokenlab.metrics.record import Milliseconds
from tokenlab.models.clock import stopwatch
from tokenlab.models.counter import AttentionKernels
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.request import Answer


@dataclass(frozen=True)
class TimedAnswer:
    """One question, answered once by one arm and by itself.

    Attributes:
        arm: The arm.
        answer: What it says; with an error there are no times.
        milliseconds: By stage, from the file to the answer's last token.
        steps: Milliseconds of each decode step.
        peak_memory_bytes: Of the device meanwhile, weights included; None where it cannot tell.
        kernels: Torch's operators that computed attention while the arm warmed up.
        in_batches: Milliseconds a query where so many prompts like it go through the LLM together; batches that do not
            fit into memory are left out.
    """

    arm: str
    answer: Answer
    milliseconds: dict[str, float]
    steps: tuple[float, ...]
    peak_memory_bytes: int | None
    kernels: tuple[str, ...] = ()
    in_batches: tuple[tuple[int, float], ...] = ()

    @property
    def measured(self) -> dict[str, Any]:
        """What a record says of it."""
        return {
            "milliseconds": Milliseconds(**self.milliseconds, steps=self.steps),
            "peak_memory_bytes": self.peak_memory_bytes,
            "attention_kernels": list(self.kernels),
            "answer_alone": self.answer.text,
            "milliseconds_in_batches": list(self.in_batches),
        }


Question = tuple[Clip, Sample, Mapping[str, Pipeline]]
"""One question about a clip, and the arms that are to answer it."""


def time_arms(
    loaded: LoadedModel,
    questions: Iterable[Question],
    seed: int = 0,
    warm_up: int = 1,
    batch_sizes: Sequence[int] = (),
) -> Iterator[TimedAnswer]:
    """Answers each question once with every arm, in an order drawn anew for each question.

    Nothing is at hand that another arm or question has computed, and no arm's needs are seen to but its own. FLOPs are
    not counted meanwhile.

    Args:
        loaded: The model.
        questions: What is asked, and of which arms.
        seed: Of the order.
        warm_up: How often an arm answers its first question before it is measured.
        batch_sizes: In which batches each question is answered besides, of copies of its prompt.
    """
    draw, kernels = Random(seed), dict[str, AttentionKernels]()
    for clip, sample, arms in questions:
        for arm in arms.keys() - kernels.keys():
            kernels[arm] = AttentionKernels()
            for _ in range(warm_up):
                with kernels[arm]:
                    _answer(loaded, clip, sample, arm, arms[arm])
        for arm in draw.sample(list(arms), len(arms)):
            timed = _answer(loaded, clip, sample, arm, arms[arm])
            in_batches = () if timed.answer.error else tuple(_in_batches(loaded, clip, sample, arms[arm], batch_sizes))
            yield replace(timed, kernels=tuple(sorted(kernels[arm].names)), in_batches=in_batches)


def _answer(loaded: LoadedModel, clip: Clip, sample: Sample, arm: str, pipeline: Pipeline) -> TimedAnswer:
    device = loaded.model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with stopwatch(device) as watch:
        try:
            (answer,) = loaded.generate([loaded.prepare(clip, sample, pipeline, EncodeCache(pipeline.needs()))])
        except SampleError as error:
            answer = Answer(sample, error=str(error))
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return TimedAnswer(arm, answer, {"file": clip.decode_milliseconds, **watch.milliseconds}, tuple(watch.steps), peak)


def _in_batches(
    loaded: LoadedModel, clip: Clip, sample: Sample, pipeline: Pipeline, batch_sizes: Sequence[int]
) -> Iterator[tuple[int, float]]:
    """Milliseconds a query by size of the batch, up to the largest that fits; every copy is read and encoded anew."""
    for size in batch_sizes:
        try:
            with stopwatch(loaded.model.device) as watch:
                caches = [EncodeCache(pipeline.needs()) for _ in range(size)]
                loaded.generate([loaded.prepare(clip, sample, pipeline, cache) for cache in caches])
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return
        yield size, clip.decode_milliseconds + sum(watch.milliseconds.values()) / size
