"""The exactness that everything stands on, checked on tiny models in a minute: keeping all is the untouched model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tokenlab.compressors import REGISTRY, Pipeline, PixelReduction, TokenCompressor
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families.support import why_unsupported
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.request import Request
from tokenlab.models.settings import MLLM
from tokenlab.testing import ANSWER_TOKENS, SAVERS
from tokenlab.testing.contract import missing_names
from tokenlab.testing.media import noise_image, video_clips
from tokenlab.testing.stubs import KEEPING


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        family: On which family's tiny model.
        name: What.
        failure: What is wrong; empty where nothing is.
    """

    family: str
    name: str
    failure: str = ""


def check_families(names: Sequence[str], folder: Path) -> Iterator[Check]:
    """Checks contract and exactness on a tiny random model of each family, made in a folder."""
    for name in names:
        SAVERS[name](folder / name)
        loaded = LoadedModel.load(MLLM(checkpoint=str(folder / name), max_new_tokens=ANSWER_TOKENS))
        missing = missing_names(loaded.family, loaded.model)
        yield Check(name, "contract with transformers", f"gone: {', '.join(missing)}" if missing else "")
        yield from check_exactness(name, loaded)


def check_exactness(name: str, loaded: LoadedModel) -> Iterator[Check]:
    """Checks that keeping all through the full path answers as plain `generate`, and that pruning changes answers."""
    requests = _requests(loaded, Pipeline())
    plain = [_plain(loaded, request) for request in requests]
    pipelines = {
        arm: pipeline
        for arm, pipeline in {"full": Pipeline(), **KEEPING}.items()
        if not any(why_unsupported(loaded.family, method) for method in pipeline.compressors)
    }
    for arm, pipeline in pipelines.items():
        answers = [loaded.generate([request])[0].ids for request in _requests(loaded, pipeline)]
        differing = sum(ours != theirs for ours, theirs in zip(answers, plain, strict=True))
        failure = f"{differing} of {len(plain)} answers differ from plain generate" if differing else ""
        yield Check(name, "full" if arm == "full" else f"keep all: {arm}", failure)
    pruned = Pipeline((REGISTRY["random"](retention_ratio=0.2),))
    answers = [loaded.generate([request])[0].ids for request in _requests(loaded, pruned)]
    yield Check(name, "pruning is noticed", "" if answers != plain else "no answer changes when tokens go")


def check_method(name: str, method: TokenCompressor, loaded: LoadedModel) -> Iterator[Check]:
    """Checks a compressor on a tiny model: it answers, in every batch the same; switched off, it changes nothing."""
    if reason := why_unsupported(loaded.family, method):
        yield Check(name, f"refused, since {reason}")
        return
    if isinstance(method, PixelReduction) and not loaded.family.native_resolution:
        yield Check(name, f"left alone, since {loaded.family.name} reads every frame at one size")
        return

    def answers(pipeline: Pipeline, batch_size: int) -> list[tuple[str, tuple[int, ...], str]]:
        batched = replace(loaded, settings=replace(loaded.settings, batch_size=batch_size))
        found = batched.answer(video_clips(), pipeline, EncodeCache(pipeline.needs()))
        return sorted((answer.sample.uid, tuple(answer.ids), answer.error or "") for answer in found)

    alone = answers(Pipeline((method,)), 1)
    errors = {error for _, _, error in alone if error}
    yield Check(name, "answers", "; ".join(sorted(errors)))
    same = alone == answers(Pipeline((method,)), 4)
    yield Check(name, "answers in a batch as alone", "" if same else "some answers differ")
    off = answers(Pipeline((replace(method, retention_ratio=1.0),)), 1) == answers(Pipeline(), 1)
    yield Check(name, "at retention_ratio 1 answers as the untouched model", "" if off else "some answers differ")


def _requests(loaded: LoadedModel, pipeline: Pipeline) -> list[Request]:
    """Questions about clips, or where a family reads none about an image."""
    clips = video_clips()
    if loaded.family.video is None:
        clips = [type(clip)(clip.cluster, clip.samples, (noise_image(1, 60, 110),)) for clip in clips[:1]]
    cache = EncodeCache(pipeline.needs())
    return [loaded.prepare(clip, sample, pipeline, cache) for clip in clips for sample in clip.samples]


@torch.inference_mode()
def _plain(loaded: LoadedModel, request: Request) -> tuple[int, ...]:
    """Stock `generate` on the processor's output, pixels and all; nothing of ours is in between."""
    inputs: dict[str, Any] = {"input_ids": request.prompt.layout.prompt.ids[None]}
    for encoded in request.prompt.encoded:
        inputs |= dict(encoded.processed.inputs)
    if "mm_token_type_ids" in inputs:
        kinds = loaded.processor.create_mm_token_type_ids(inputs["input_ids"].tolist())
        inputs["mm_token_type_ids"] = torch.tensor(kinds)
    model: Any = loaded.model
    output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    ids = output[0, inputs["input_ids"].shape[1] :].tolist()
    return tuple(ids[: loaded.answer_length(ids)])
