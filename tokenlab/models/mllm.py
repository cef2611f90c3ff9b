"""The frozen MLLM: each medium is encoded once, and every question answered once per pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessorList, PretrainedConfig, PreTrainedModel

from tokenlab.compressors.base import SampleNoise
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import TowerReduction
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.errors import SampleError
from tokenlab.models import checkpoint
from tokenlab.models.clock import StepClock, running, stage
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families import Family, family_of
from tokenlab.models.hf import Decoder, attention_probes, own_positions, warn_if_untested
from tokenlab.models.hooks import hooked
from tokenlab.models.llm.decoding import check_decoding
from tokenlab.models.llm.layer_hooks import DecoderHooks, active_decoder
from tokenlab.models.llm.state import PromptState, llm_trace
from tokenlab.models.prompt.batch import dense_deepstack, generate_arguments
from tokenlab.models.prompt.reduced import ReducedPrompt, full_prompt, reduced_prompt
from tokenlab.models.prompt.writer import PromptWriter
from tokenlab.models.request import (
    Answer,
    Request,
    check_texts,
    encode_trace,
    in_order,
    missing_tokens,
    original_size,
)
from tokenlab.models.settings import MLLM
from tokenlab.models.vision.auxiliary import AuxiliaryClip, AuxiliaryPoolingHead
from tokenlab.models.vision.encode import Encoded, encode, joint_needs, with_joint_embeddings
from tokenlab.models.vision.frame_selection import select_from_media
from tokenlab.models.vision.grid_stage import Decisions, from_tower, grid_trace, reduce_on_grid, with_evidence
from tokenlab.models.vision.processing import MediaProcessor
from tokenlab.models.vision.resizing import resize_media
from tokenlab.models.vision.tower import BlockNoise
from tokenlab.tokens import Evidence, VisualTokens
from tokenlab.tokens.sequence import Prompt
from tokenlab.trace import Trace


@dataclass(frozen=True)
class LoadedModel:
    """A frozen model with what belongs to it; hooks go on for one call and come off again.

    Attributes:
        model: The stock model.
        processor: Its stock processor.
        config: Its config.
        family: Its family's facts.
        settings: How it answers.
        seed: Seed of the noise that compressors draw.
        clip: An auxiliary CLIP, if there is one.
        head: An auxiliary pooling head, if there is one.
    """

    model: PreTrainedModel
    processor: Any
    config: PretrainedConfig
    family: Family
    settings: MLLM = field(default_factory=MLLM)
    seed: int = 0
    clip: AuxiliaryClip | None = None
    head: AuxiliaryPoolingHead | None = None

    @classmethod
    def load(cls, settings: MLLM, seed: int = 0) -> LoadedModel:
        """Loads processor and weights; raises UserError where the checkpoint cannot be read or run."""
        warn_if_untested()
        checkpoint.check_settings(settings)
        processor, model = checkpoint.load_processor(settings), checkpoint.load_model(settings)
        check_decoding(model.generation_config.to_dict(), "model.mllm.checkpoint: its generation_config")
        clip = AuxiliaryClip(settings) if "clip" in settings.auxiliary else None
        siglip = checkpoint.load_model(settings, "siglip") if "siglip" in settings.auxiliary else None
        head = None if siglip is None else AuxiliaryPoolingHead(siglip)
        return cls(model, processor, model.config, family_of(model.config), settings, seed, clip, head)

    @classmethod
    def of(cls, model: PreTrainedModel, processor: Any, seed: int = 0) -> LoadedModel:
        """Describes a model that somebody else loaded, and that stays theirs."""
        warn_if_untested()
        settings = MLLM(checkpoint=model.name_or_path or "")
        return cls(model, processor, model.config, family_of(model.config), settings, seed)

    def to(self, device: torch.device) -> LoadedModel:
        """Places model and auxiliary encoders on a device, unless loading placed the model already."""
        parts: list[Any] = [self.clip, self.head, *([] if self.settings.is_placed else [self.model])]
        for part in parts:
            if part is not None:
                part.to(device)
        return self

    @cached_property
    def decoder(self) -> Decoder:
        """The LLM, with the parts that hooks act on."""
        return Decoder.of(self.model)

    @cached_property
    def media(self) -> MediaProcessor:
        """The processor, asked for one medium at a time."""
        return MediaProcessor(self.processor, self.config, self.family)

    @cached_property
    def writer(self) -> PromptWriter:
        """The processor, asked for a prompt."""
        return PromptWriter(self.processor, self.config, self.family, self.media.frame_text)

    @property
    def batch_size(self) -> int:
        """Prompts that go through the LLM together."""
        return self.settings.prompts_at_once(self.model.device.type)

    def encode(
        self,
        frames: Frames,
        needs: frozenset[Evidence] = frozenset(),
        method: tuple[TowerReduction, BlockNoise] | None = None,
    ) -> Encoded:
        """Runs one medium through processor, tower and projector; raises SampleError if it cannot be encoded.

        Args:
            frames: The medium.
            needs: The evidence to read on the way.
            method: A method inside the tower and its noise, if there is one.
        """
        with stage("processing"):
            processed = self.media.process(frames)
        with stage("tower"):
            encoded = encode(self.model, self.family, processed, needs, method, self.head)
        of_clip = joint_needs(needs)
        if self.clip is None or not of_clip:
            return encoded
        with stage("auxiliary"):
            shown, cropped = self.media.pictures(processed), self.media.is_cropped(processed)
            return with_joint_embeddings(encoded, self.clip, shown, cropped, of_clip)

    # --- one batch of questions ------------------------------------------------------------------------------------

    def answer(self, clips: Sequence[Clip], pipeline: Pipeline, cache: EncodeCache) -> Iterator[Answer]:
        """Answers every question about the clips; yields each batch's answers as soon as they exist."""
        requests = self._to_answer(clips, pipeline, cache)
        while batch := list(islice(requests, self.batch_size)):
            yield from (item for item in batch if isinstance(item, Answer))
            ready = [item for item in batch if isinstance(item, Request)]
            if ready:
                yield from self._generate_or_fail(ready)

    def _generate_or_fail(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers a batch; where a method inside the LLM cannot act on one of it, each is tried by itself."""
        try:
            return self.generate(requests)
        except SampleError as error:
            if len(requests) == 1:
                return [Answer(requests[0].sample, error=str(error))]
            return [answer for request in requests for answer in self._generate_or_fail([request])]

    def _to_answer(self, clips: Sequence[Clip], pipeline: Pipeline, cache: EncodeCache) -> Iterator[Request | Answer]:
        for clip in clips:
            for sample in clip.samples:
                try:
                    yield self.prepare(clip, sample, pipeline, cache)
                except SampleError as error:
                    yield Answer(sample, error=str(error))

    @torch.inference_mode()
    def prepare(
        self, clip: Clip, sample: Sample, pipeline: Pipeline, cache: EncodeCache, chosen_for: Sample | None = None
    ) -> Request:
        """Runs a pipeline on one question, up to the LLM; raises SampleError where that cannot be done.

        Args:
            clip: What is asked about.
            sample: The question.
            pipeline: The pipeline.
            cache: What other arms and questions share.
            chosen_for: The question for which tokens are chosen before the LLM, if it is another one about the clip.
        """
        chooser = chosen_for or sample
        if clip.media is None:
            raise SampleError(clip.error or "no media")
        content = in_order(sample, clip)
        check_texts(content, self.processor)
        numbers = [part for part in content if isinstance(part, int)]
        candidates = [clip.media[number] for number in numbers]
        score = cache.scorer(self.clip, clip.cluster, numbers, chooser.question)
        selected, trace = select_from_media(candidates, chooser, pipeline, self.seed, score)
        shown, lost, resizing = resize_media(selected, pipeline, self.media)
        encoded = []
        for number, frames in zip(numbers, shown, strict=True):
            encoded.append(cache.encode(self, clip, number, frames, pipeline))
        media, decisions, texts = self.reduce_on_grid(encoded, chooser, pipeline, cache)
        trace += resizing + encode_trace(encoded, shown, pipeline) + grid_trace(decisions, bool(self.family.projector))
        prompt = cache.prompt(self, sample, content, encoded)
        markers = [self.writer.marker_tokens(frames) for frames in candidates]
        reduced = self.reduce_prompt(prompt, encoded, media, decisions, pipeline)
        whole = zip(candidates, shown, encoded, prompt.media, lost, strict=True)
        before = tuple(original_size(*medium) for medium in whole)
        trace += Trace(
            media=before,
            prompt_tokens=len(prompt) + missing_tokens(candidates, before, prompt, markers, lost),
            prefill_tokens=len(reduced.layout),
            auxiliary_text=texts,
        )
        return Request(sample, pipeline, reduced, trace)

    def reduce_on_grid(
        self, encoded: Sequence[Encoded], sample: Sample, pipeline: Pipeline, cache: EncodeCache
    ) -> tuple[list[VisualTokens], Decisions, tuple[int, ...]]:
        """The visual-token stage, behind what the tower lost; and the lengths of texts that CLIP read for it."""
        questions, texts = cache.question(self, sample.question, pipeline)
        media = [with_evidence(each, pipeline.needs(), questions) for each in encoded]
        noise, projector = SampleNoise(self.seed, sample.uid), self.family.projector_of(self.model)
        media, decisions = reduce_on_grid(media, sample.question, pipeline, noise, projector)
        return media, [*from_tower(encoded, pipeline), *decisions], texts

    def reduce_prompt(
        self,
        prompt: Prompt,
        encoded: Sequence[Encoded],
        media: Sequence[VisualTokens],
        decisions: Decisions,
        pipeline: Pipeline,
    ) -> ReducedPrompt:
        """What the LLM reads; the untouched prompt, at the model's own positions, where nothing reduces it."""
        if not decisions and not pipeline.layer_plan(len(self.decoder.layers)).acts:
            return full_prompt(prompt, encoded)
        with stage("apply"):
            return reduced_prompt(prompt, encoded, media, decisions, self.positions(prompt, encoded))

    def positions(self, prompt: Prompt, encoded: Sequence[Encoded]) -> Int[Tensor, "axes s"]:
        """The model's own position ids of the untouched prompt."""
        if not self.family.mrope:
            return torch.arange(len(prompt))[None]
        inputs = generate_arguments([full_prompt(prompt, encoded)], self.processor, self.model.device)
        inputs.pop("mm_encoder_outputs", None)
        return own_positions(self.model, inputs)

    def embed_words(self, text: str | Sequence[str]) -> Float[Tensor, "q d"]:
        """The LLM's input embeddings of a text, or of words one after the other."""
        tokenizer, apart = self.processor.tokenizer, not isinstance(text, str)
        ids = tokenizer(text, is_split_into_words=apart, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return self.model.get_input_embeddings()(ids[0].to(self.model.device))

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers a batch of prompts greedily; all come from the same pipeline."""
        watch = running()
        with ExitStack() as stack:
            arguments, hooks = self.llm_arguments(requests, stack)
            model: Any = self.model
            stack.enter_context(stage("prefill"))  # until the clock says that decoding has begun
            sequences = model.generate(
                **arguments,
                max_new_tokens=self.settings.max_new_tokens,
                logits_processor=LogitsProcessorList([StepClock(watch)] if watch else []),
                do_sample=False,
                num_beams=1,
                use_cache=True,
            )
        width = arguments["input_ids"].shape[1]
        states = [None] * len(requests) if hooks is None else hooks.prompts
        rows = zip(requests, states, sequences[:, width:].tolist(), strict=True)
        return [self._answer(request, state, ids, width) for request, state, ids in rows]

    def llm_arguments(
        self, requests: Sequence[Request], stack: ExitStack
    ) -> tuple[dict[str, Any], DecoderHooks | None]:
        """What `generate` reads of a batch; puts hooks into the LLM only where methods act there.

        Args:
            requests: The batch, all from one pipeline.
            stack: Takes the hooks off again.
        """
        prompts = [request.prompt for request in requests]
        plan = requests[0].pipeline.layer_plan(len(self.decoder.layers))
        arguments = generate_arguments(
            prompts, self.processor, self.model.device, plan.first_layer if plan.acts else None
        )
        if not plan.acts:
            return arguments, None
        states = []
        for request, prompt in zip(requests, prompts, strict=True):
            noise = SampleNoise(self.seed, request.sample.uid)
            assert prompt.original_positions is not None, "prompts that are reduced inside the LLM have positions"
            media = [tokens.showing(plan.needs) for tokens in prompt.media]
            states.append(PromptState(prompt.layout, prompt.original_positions, media, noise, list(prompt.totals)))
        width, deepstack = arguments["input_ids"].shape[1], []
        if self.family.deepstack:
            shape = (len(prompts), width, self.config.get_text_config().hidden_size)
            like = torch.empty(shape, dtype=self.model.dtype, device=self.model.device)
            deepstack = dense_deepstack(prompts, plan.first_layer, like)
        hooks = DecoderHooks(self.decoder, states, plan, width, deepstack)
        for point in hooks.hook_points:
            stack.enter_context(hooked(point, "layer"))
        stack.enter_context(attention_probes(hooks.attention_probes))
        stack.enter_context(active_decoder(hooks))
        return arguments, hooks

    def _answer(self, request: Request, state: PromptState | None, ids: list[int], width: int) -> Answer:
        """One row of a batch of so many places, without what follows its own end of sequence."""
        length = self.answer_length(ids)
        text = self.processor.tokenizer.decode(ids[:length], skip_special_tokens=True)
        return Answer(
            request.sample,
            text.strip(),
            tuple(ids[:length]),
            request.trace + llm_trace(state, length, request.prompt.totals),
            padding=width - len(request.prompt.layout),
        )

    def answer_length(self, ids: Sequence[int]) -> int:
        """Tokens of an answer up to its end of sequence, padding left out."""
        return next((index + 1 for index, token in enumerate(ids) if self.is_end(token)), len(ids))

    def is_end(self, token: int) -> bool:
        """Whether an answer ends with a token."""
        ends = self.model.generation_config.eos_token_id
        return token in ends if isinstance(ends, list) else token == ends
