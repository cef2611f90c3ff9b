"""Reductions on a model that somebody else loaded: its own `generate`, on its own processor's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import MappingProxyType, MethodType
from typing import Any, get_args

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from tokenlab.compressors.base import TokenCompressor, seeded_generator
from tokenlab.compressors.evidence import QuestionEmbeddings
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import FrameSelection, TowerReduction
from tokenlab.data.samples import Sample
from tokenlab.errors import UserError
from tokenlab.models.families import Family
from tokenlab.models.families.media import ProcessorOutput
from tokenlab.models.families.support import why_unsupported
from tokenlab.models.hf import CACHE_NAMES
from tokenlab.models.hooks import Counted
from tokenlab.models.llm.decoding import check_call
from tokenlab.models.mllm import LoadedModel, llm_trace
from tokenlab.models.prompt.split import MediaSplitter, Pictures
from tokenlab.models.request import Request, encode_trace
from tokenlab.models.vision.encode import Encoded, encode
from tokenlab.models.vision.grid_stage import grid_trace
from tokenlab.tokens.sequence import Prompt
from tokenlab.trace import MediumTrace, Trace

NOWHERE = (0, 0)


@dataclass(frozen=True)
class _Context:
    """What a `compress` block does to calls of `generate`."""

    loaded: LoadedModel
    pipeline: Pipeline
    questions: Sequence[str]
    pictures: Pictures | None
    traces: list[Trace] = field(default_factory=list)


_CONTEXTS: ContextVar[Mapping[PreTrainedModel, _Context]] = ContextVar(
    "tokenlab_compress", default=MappingProxyType({})
)
_GENERATE = Counted()


@contextmanager
def compress(
    model: PreTrainedModel,
    processor: Any,
    pipeline: Pipeline | Sequence[TokenCompressor],
    questions: Sequence[str] = (),
    seed: int = 0,
    pictures: Pictures | None = None,
) -> Iterator[list[Trace]]:
    """While active, `model.generate(**inputs)` reads reduced prompts; afterwards the model is as it was.

    `inputs` are what the checkpoint's own processor made of one prompt or several, padded on the left; what comes back
    is what the model's own `generate` would give: the original prompts in front, lengths as they were asked for. Every
    image and every video is reduced by itself; where frames stand in the prompt as images (LLaVA-1.5, InternVL,
    SmolVLM), nothing tells several images from a video, and `pictures` has to say what they are. Of nested blocks on
    one model the innermost counts.

    Args:
        model: A supported family's model, loaded by whom it belongs to.
        processor: Its processor.
        pipeline: What to do; compressors in order.
        questions: One a prompt, for methods that look at the question.
        seed: Of the noise that methods draw.
        pictures: What several pictures of a prompt are, where frames stand in it as images: `images`, or the `frames`
            of one video. A prompt's only picture is an image unless this says `frames`.

    Yields:
        A list that gets a trace of every prompt, call after call: what was really removed.

    Raises:
        UserError: If the model is of no supported family, a method cannot run on it, needs the questions or chooses
            frames; and, from `generate`, for decoding that reduced prompts cannot have, such as beams or no cache, and
            for several pictures in a prompt that may be either.
    """
    pipeline = pipeline if isinstance(pipeline, Pipeline) else Pipeline(tuple(pipeline))
    context = _Context(LoadedModel.of(model, processor, seed), pipeline, questions, pictures)
    _check(context)
    with _GENERATE.use(model, "generate", lambda: _replace_generate(model)):
        before = _CONTEXTS.set({**_CONTEXTS.get(), model: context})
        try:
            yield context.traces
        finally:
            _CONTEXTS.reset(before)


def _replace_generate(model: PreTrainedModel) -> Callable[[], None]:
    """Puts our `generate` on the model; returns what puts back what was there."""
    own = vars(model)
    before = own.get("generate")
    own["generate"] = MethodType(_generate, model)  # a deep copy of the model binds it to itself, and stays plain

    def restore() -> None:
        own.pop("generate")
        if before is not None:
            own["generate"] = before

    return restore


def _generate(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
    """What `model.generate` does meanwhile: reduced inside a block of this context, plain beside it."""
    stock_class: Any = type(model)
    stock = stock_class.generate.__get__(model)
    context = _CONTEXTS.get().get(model)
    if context is None:
        return stock(*args, **kwargs)
    if args:
        raise UserError("generate: give the processor's output by name, generate(**inputs)")
    _check_call(model, kwargs)
    call = _Call(context, kwargs)
    with ExitStack() as stack:
        arguments, hooks = context.loaded.llm_arguments(call.requests, stack)
        shorter = call.ids.shape[1] - arguments["input_ids"].shape[1]
        output = stock(**{**call.passed_on, **arguments, **_lengths(model, kwargs, shorter)})
    sequences = output if isinstance(output, Tensor) else output.sequences
    new_tokens = sequences[:, arguments["input_ids"].shape[1] :]
    context.traces.extend(
        request.trace + llm_trace(hooks and hooks.prompts[row], context.loaded.answer_length(new_tokens[row].tolist()))
        for row, request in enumerate(call.requests)
    )
    whole = torch.cat([call.ids.to(new_tokens.device), new_tokens], dim=1)
    if isinstance(output, Tensor):
        return whole
    output.sequences = whole
    return output


def _lengths(model: PreTrainedModel, kwargs: Mapping[str, Any], shorter: int) -> dict[str, int]:
    """`max_length` and `min_length` count the prompt: the reduced one is shorter by so many tokens."""
    config = kwargs.get("generation_config") or model.generation_config
    lengths = {}
    for name, relative in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        value = kwargs.get(name, getattr(config, name, None))
        is_relative = kwargs.get(relative, getattr(config, relative, None)) is not None
        if value and not is_relative:
            lengths[name] = max(0, value - shorter)
    return lengths


def _check(context: _Context) -> None:
    """Raises UserError for a pipeline or arguments that cannot be."""
    family, kernel = context.loaded.family, context.loaded.config._attn_implementation or "eager"
    for method in context.pipeline.active:
        if reason := why_unsupported(family, method, kernel=kernel):
            raise UserError(f"compress: {reason}")
        if isinstance(method, FrameSelection):
            raise UserError(f"compress: {method.name} chooses frames, which is done before the processor reads them")
    if not context.questions and any(isinstance(need, QuestionEmbeddings) for need in context.pipeline.needs()):
        raise UserError("compress: a method looks at the question: give questions=[...], one a prompt")
    _check_pictures(family, context.pictures)


def _check_pictures(family: Family, pictures: str | None) -> None:
    if pictures not in (None, *get_args(Pictures)):
        raise UserError(f"compress: pictures={pictures!r}: it is 'images', 'frames' or left out")
    if pictures == "frames" and not family.frames_share_placeholder:
        raise UserError(f"compress: pictures='frames': in {family.name}'s prompts images are no frames; leave it out")


def _check_call(model: PreTrainedModel, kwargs: Mapping[str, Any]) -> None:
    """Raises UserError for decoding that reduced prompts cannot have, however it is asked for."""
    for name in ("assistant_model", "custom_generate", "inputs_embeds", "position_ids", *CACHE_NAMES):
        if kwargs.get(name) is not None:
            raise UserError(f"generate asks for {name}, which reduced prompts cannot have; take it out")
    config = kwargs.get("generation_config") or model.generation_config
    check_call({**config.to_dict(), **kwargs}, "generate")


class _Call:
    """One call of `generate`: its prompts, taken apart and reduced."""

    def __init__(self, context: _Context, kwargs: Mapping[str, Any]) -> None:
        self.context, loaded = context, context.loaded
        self.ids: Int[Tensor, "b s"] = kwargs["input_ids"]
        ids, mask = self.ids.cpu(), kwargs.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask.cpu().long()
        if bool((mask.diff(dim=1) < 0).any()):
            raise UserError("generate: prompts must be padded on the left (processor.tokenizer.padding_side = 'left')")
        questions = context.questions or [""] * len(ids)
        if len(questions) != len(ids):
            raise UserError(f"compress: {len(questions)} questions for {len(ids)} prompts")
        splitter = MediaSplitter(loaded.processor, loaded.config, loaded.family, kwargs, context.pictures)
        prompts = [row[real == 1] for row, real in zip(ids, mask, strict=True)]
        media = [splitter.next_prompt(row) for row in prompts]
        splitter.check_all_taken()
        by_row = zip(prompts, media, questions, strict=True)
        self.requests = [self._request(number, *each) for number, each in enumerate(by_row)]
        of_media = {name for row in media for each in row for name in each.inputs}
        self.passed_on = {  # what is ours goes: media and all that has a column a token of the original prompt
            name: value
            for name, value in kwargs.items()
            if not name.startswith("pixel_")
            and name not in of_media | {"batch_num_images", "mm_token_type_ids", "attention_mask"}
        }

    @torch.inference_mode()
    def _request(self, row: int, ids: Int[Tensor, " s"], media: list[ProcessorOutput], question: str) -> Request:
        """One prompt, reduced."""
        loaded, pipeline = self.context.loaded, self.context.pipeline
        located = loaded.writer.locate(ids, media)
        if self.context.pictures == "frames":  # what stands between them may be anybody's words
            located = tuple(replace(each, markers=((NOWHERE, NOWHERE),) * len(each.markers)) for each in located)
        prompt, encoded = Prompt(ids, located), [self._encode(each, row) for each in media]
        sample = Sample(str(row), str(row), question)
        left, decisions, _ = loaded.reduce_on_grid(encoded, sample, pipeline)
        reduced = loaded.reduce_prompt(prompt, encoded, left, decisions, pipeline)
        sizes = tuple(
            MediumTrace(len(medium.visual), len(medium.separators), each.spec is loaded.family.image)
            for medium, each in zip(located, media, strict=True)
        )
        trace = encode_trace(encoded, (), pipeline) + grid_trace(decisions, bool(loaded.family.projector))
        trace += Trace(media=sizes, prompt_tokens=len(prompt), prefill_tokens=len(reduced.layout))
        return Request(sample, pipeline, reduced, trace)

    def _encode(self, processed: ProcessorOutput, row: int) -> Encoded:
        loaded, pipeline = self.context.loaded, self.context.pipeline
        methods = pipeline.of_stage(TowerReduction)
        noise = [seeded_generator(loaded.seed, method.name, str(row)) for method in methods]
        method = next(zip(methods, noise, strict=True), None)
        return encode(loaded.model, loaded.family, processed, pipeline.needs(), method)
