"""One call of a model's own `generate`, on what its processor made: its prompts are taken apart, reduced and answered.

What comes back, and what the caller's own functions see on the way, has the original prompt in front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from tokenlab.compressors.base import SampleNoise
from tokenlab.compressors.evidence import QuestionEmbeddings
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.data.samples import Sample
from tokenlab.errors import UserError
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families.media import ProcessorOutput
from tokenlab.models.llm.decoding import check_call
from tokenlab.models.llm.state import llm_trace
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.prompt.split import MediaSplitter, Pictures
from tokenlab.models.request import Request, encode_trace
from tokenlab.models.vision.encode import Encoded, encode
from tokenlab.models.vision.grid_stage import grid_trace
from tokenlab.models.vision.tower import method_in_tower
from tokenlab.tokens.sequence import Prompt
from tokenlab.trace import MediumTrace, Trace

NOWHERE = (0, 0)


@dataclass(frozen=True)
class Reducer:
    """What is to be done to the prompts of a model's own `generate`.

    Attributes:
        loaded: The model, which is somebody else's.
        pipeline: What to do.
        questions: One a prompt, where a call brings none of its own.
        pictures: What several pictures of a prompt are, where frames stand in it as images.
    """

    loaded: LoadedModel
    pipeline: Pipeline
    questions: Sequence[str] = ()
    pictures: Pictures | None = None

    def generate(self, stock: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[Any, list[Trace]]:
        """Answers the prompts of one call, reduced.

        Args:
            stock: The model's own `generate`.
            arguments: Of the call, by name.

        Returns:
            What the model's own would return for the original prompts, and a trace of each.

        Raises:
            UserError: For decoding that reduced prompts cannot have.
        """
        _check_decoding(self.loaded, arguments)
        arguments = _with_ids_by_name(arguments)
        call = _Call(self, arguments)
        with ExitStack() as stack:
            reduced, hooks = self.loaded.llm_arguments(call.requests, stack)
            width = reduced["input_ids"].shape[1]
            lengths = _lengths(self.loaded, arguments, call.ids.shape[1] - width)
            seen = _seen_by_caller(arguments, _OriginalPrompt(call.ids, width))
            output = stock(**{**call.passed_on, **reduced, **lengths, **seen})
        sequences = output if isinstance(output, Tensor) else output.sequences
        new_tokens = sequences[:, width:]
        traces = []
        for row, request in enumerate(call.requests):
            length = self.loaded.answer_length(new_tokens[row].tolist())
            traces.append(request.trace + llm_trace(hooks and hooks.prompts[row], length, request.prompt.totals))
        whole = torch.cat([call.ids.to(new_tokens.device), new_tokens], dim=1)
        if isinstance(output, Tensor):
            return whole, traces
        output.sequences = whole
        return output, traces


def _check_decoding(loaded: LoadedModel, arguments: Mapping[str, Any]) -> None:
    """Raises UserError for decoding that reduced prompts cannot have, however it is asked for."""
    config = arguments.get("generation_config") or loaded.model.generation_config
    check_call({**config.to_dict(), **arguments}, "generate")


def _with_ids_by_name(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The call's arguments, ids under the name that processors give them."""
    arguments = dict(arguments)
    ids = arguments.pop("inputs", None)
    arguments.setdefault("input_ids", ids)
    if not isinstance(arguments["input_ids"], Tensor):
        raise UserError("generate: there are no input_ids; give what the processor returns, generate(**inputs)")
    return arguments


def _lengths(loaded: LoadedModel, arguments: Mapping[str, Any], shorter: int) -> dict[str, int]:
    """`max_length` and `min_length` count the prompt: the reduced one is shorter by so many tokens."""
    config = arguments.get("generation_config") or loaded.model.generation_config
    lengths = {}
    for name, relative in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        value = arguments.get(name, getattr(config, name, None))
        is_relative = arguments.get(relative, getattr(config, relative, None)) is not None
        if value and not is_relative:
            lengths[name] = max(0, value - shorter)
    return lengths


class _Call:
    """One call of `generate`: its prompts, taken apart and reduced."""

    def __init__(self, reducer: Reducer, arguments: Mapping[str, Any]) -> None:
        self.reducer, loaded = reducer, reducer.loaded
        self.ids: Int[Tensor, "b s"] = arguments["input_ids"]
        ids, mask = self.ids.cpu(), arguments.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask.cpu().long()
        if bool((mask.diff(dim=1) < 0).any()):
            raise UserError("generate: prompts must be padded on the left (processor.tokenizer.padding_side = 'left')")
        questions = self._questions(arguments.get("questions"))
        splitter = MediaSplitter(loaded.processor, loaded.config, loaded.family, arguments, reducer.pictures)
        prompts = [row[real == 1] for row, real in zip(ids, mask, strict=True)]
        media = [splitter.next_prompt(row) for row in prompts]
        splitter.check_all_taken()
        by_row = zip(prompts, media, questions, strict=True)
        self.requests = [self._request(number, *each) for number, each in enumerate(by_row)]
        of_media = {name for row in media for each in row for name in each.inputs}
        self.passed_on = {  # what is ours goes: media and all that has a column a token of the original prompt
            name: value
            for name, value in arguments.items()
            if not name.startswith("pixel_")
            and name not in of_media | {"batch_num_images", "mm_token_type_ids", "attention_mask", "questions"}
        }

    def _questions(self, own: str | Sequence[str] | None) -> Sequence[str]:
        """One a prompt: the call's own, or else those of the block."""
        questions = self.reducer.questions if own is None else own
        questions = [questions] if isinstance(questions, str) else questions
        if not questions and needs_question(self.reducer.pipeline):
            raise UserError("generate: a method looks at the question: give questions=[...], one a prompt")
        questions = questions or [""] * len(self.ids)
        if len(questions) != len(self.ids):
            raise UserError(f"generate: {len(questions)} questions for {len(self.ids)} prompts")
        return questions

    @torch.inference_mode()
    def _request(self, row: int, ids: Int[Tensor, " s"], media: list[ProcessorOutput], question: str) -> Request:
        """One prompt, reduced."""
        loaded, pipeline = self.reducer.loaded, self.reducer.pipeline
        located = loaded.writer.locate(ids, media)
        if self.reducer.pictures == "frames":  # what stands between them may be anybody's words
            located = tuple(replace(each, markers=((NOWHERE, NOWHERE),) * len(each.markers)) for each in located)
        prompt, encoded = Prompt(ids, located), [self._encode(each, row, number) for number, each in enumerate(media)]
        sample = Sample(str(row), str(row), question)
        left, decisions, _ = loaded.reduce_on_grid(encoded, sample, pipeline, EncodeCache(pipeline.needs()))
        reduced = loaded.reduce_prompt(prompt, encoded, left, decisions, pipeline)
        sizes = tuple(
            MediumTrace(
                len(medium.visual),
                len(medium.separators),
                each.spec is loaded.family.image,
                shapes=each.frame_shapes,  # which frames of a file they are, the processor's output does not say
            )
            for medium, each in zip(located, media, strict=True)
        )
        trace = encode_trace(encoded, (), pipeline) + grid_trace(decisions, bool(loaded.family.projector))
        trace += Trace(media=sizes, prompt_tokens=len(prompt), prefill_tokens=len(reduced.layout))
        return Request(sample, pipeline, reduced, trace)

    def _encode(self, processed: ProcessorOutput, row: int, number: int) -> Encoded:
        loaded, pipeline = self.reducer.loaded, self.reducer.pipeline
        method = method_in_tower(pipeline, SampleNoise(loaded.seed, str(row)), number)
        return encode(loaded.model, loaded.family, processed, pipeline.needs(), method)


def needs_question(pipeline: Pipeline) -> bool:
    """Whether some method looks at the question."""
    return any(isinstance(need, QuestionEmbeddings) for need in pipeline.needs())


# --- what the caller's own functions see --------------------------------------------------------------------------


@dataclass(frozen=True)
class _OriginalPrompt:
    """Puts the original prompts in front of answers that a reduced one is in front of."""

    ids: Int[Tensor, "b s"]
    width: int  # of the reduced prompts

    def in_front(self, sequences: Int[Tensor, "b r"]) -> Int[Tensor, "b l"]:
        """All sequences of the batch."""
        return torch.cat([self.ids.to(sequences.device), sequences[:, self.width :]], dim=1)

    def in_front_of_one(self, row: int, sequence: Int[Tensor, " r"]) -> Int[Tensor, " l"]:
        """One sequence of it."""
        return torch.cat([self.ids[row].to(sequence.device), sequence[self.width :]])


class _Processor(LogitsProcessor):
    def __init__(self, processor: Any, prompt: _OriginalPrompt) -> None:
        self.processor, self.prompt = processor, prompt

    def __call__(self, input_ids: Int[Tensor, "b r"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        return self.processor(self.prompt.in_front(input_ids), scores)


class _Criterion(StoppingCriteria):
    def __init__(self, criterion: Any, prompt: _OriginalPrompt) -> None:
        self.criterion, self.prompt = criterion, prompt

    def __call__(self, input_ids: Int[Tensor, "b r"], scores: Any, **kwargs: Any) -> Any:
        return self.criterion(self.prompt.in_front(input_ids), scores, **kwargs)


class _Streamer:
    """`generate` puts the prompt first, and then token by token."""

    def __init__(self, streamer: Any, prompt: _OriginalPrompt) -> None:
        self.streamer, self.prompt, self.begun = streamer, prompt, False

    def put(self, value: Int[Tensor, "..."]) -> None:
        self.streamer.put(value if self.begun else self.prompt.ids.cpu())
        self.begun = True

    def end(self) -> None:
        self.streamer.end()


def _seen_by_caller(arguments: Mapping[str, Any], prompt: _OriginalPrompt) -> dict[str, Any]:
    """The caller's own functions, which see what they would see without us."""
    found: dict[str, Any] = {}
    if processors := arguments.get("logits_processor"):
        found["logits_processor"] = LogitsProcessorList([_Processor(each, prompt) for each in processors])
    if criteria := arguments.get("stopping_criteria"):
        found["stopping_criteria"] = StoppingCriteriaList([_Criterion(each, prompt) for each in criteria])
    if (allowed := arguments.get("prefix_allowed_tokens_fn")) is not None:
        found["prefix_allowed_tokens_fn"] = lambda row, ids: allowed(row, prompt.in_front_of_one(row, ids))
    if (streamer := arguments.get("streamer")) is not None:
        found["streamer"] = _Streamer(streamer, prompt)
    return found
