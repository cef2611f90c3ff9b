"""The frozen MLLM: encode a clip once, answer its questions once per pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice, repeat
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenlab.compressors.base import FrameSelection, FrameView, TowerReduction, seeded_generator
from tokenlab.compressors.evidence import FrameScores, QuestionEmbeddings
from tokenlab.compressors.pipeline import Pipeline, fingerprint
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.errors import SampleError
from tokenlab.models.arrangement import Prompt, left_padded
from tokenlab.models.auxiliary import AuxiliaryClip, PoolingHead, check_auxiliary
from tokenlab.models.blocks import TowerMethod
from tokenlab.models.decoding import check_decoding
from tokenlab.models.encoding import Encoded, encode, encoder_outputs
from tokenlab.models.entry import after_first_call
from tokenlab.models.families import family_of
from tokenlab.models.layers import reduced
from tokenlab.models.listening import POOLING, synchronise
from tokenlab.models.loading import check_settings, load_config, load_model, load_processor
from tokenlab.models.passage import Passage
from tokenlab.models.prompts import PromptWriter, Shown
from tokenlab.models.requests import Answer, Request, Selection, finished, in_order, untouched_medium
from tokenlab.models.settings import MLLM
from tokenlab.models.visual_tokens import JOINT, Reduced, reduce_visual_tokens
from tokenlab.tensors import Evidence, Step, Trace

FRAME_SCORES = FrameScores("clip")


class FrozenMLLM(nn.Module):
    """Any supported Hugging Face model, untouched: hooks go on for one call and come off again.

    Args:
        settings: Which checkpoint, and how it answers.
        seed: Seed of the noise that compressors draw.

    Raises:
        UserError: If the checkpoint cannot be read or is of an unsupported family. Weights load in `load`.
    """

    def __init__(self, settings: MLLM, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.seed = settings, seed
        check_settings(settings)
        self.config = load_config(settings)
        self.family = family_of(self.config)
        check_auxiliary(settings, self.config, self.family)
        self.tokens_read = self.tokens_padded = 0

    @classmethod
    def around(cls, model: PreTrainedModel, processor: Any, seed: int = 0) -> FrozenMLLM:
        """One around a model that is there already, and stays whose it is; without auxiliary encoders."""
        mllm = cls.__new__(cls)
        nn.Module.__init__(mllm)
        mllm.settings, mllm.seed = MLLM(checkpoint=model.name_or_path or ""), seed
        mllm.config, mllm.family = model.config, family_of(model.config)
        mllm.clip = mllm.head = None
        mllm.writer = PromptWriter(processor, model.config, mllm.family)
        mllm.__dict__["model"] = model
        mllm.tokens_read = mllm.tokens_padded = 0
        return mllm

    def load(self) -> None:
        """Loads processor and weights."""
        self.writer = PromptWriter(load_processor(self.settings), self.config, self.family)
        model = load_model(self.settings)
        check_decoding(model.generation_config.to_dict(), "model.mllm.checkpoint: its generation_config")
        if self.settings.is_placed:
            self.__dict__["model"] = model  # hidden from the Trainer, which would move it
        else:
            self.model = model
        self.clip = AuxiliaryClip(self.settings) if "clip" in self.settings.auxiliary else None
        self.head = PoolingHead(load_model(self.settings, "siglip")) if "siglip" in self.settings.auxiliary else None

    @property
    def padding_waste(self) -> float:
        """Share of padding in all the tokens that the LLM has read at prefill."""
        return self.tokens_padded / max(1, self.tokens_read)

    def encode(
        self, frames: Frames, needs: frozenset[Evidence] = frozenset(), tower: TowerMethod | None = None
    ) -> Encoded:
        """One clip through processor, tower and projector; raises SampleError if it cannot be encoded."""
        started = time.perf_counter()
        processed = self.writer.process(frames)
        processing = 1000 * (time.perf_counter() - started)
        encoded = encode(self.model, self.family, processed, needs, tower, self.head)
        encoded = replace(encoded, milliseconds=encoded.milliseconds + processing)
        if self.clip is None or JOINT not in needs or processed.in_tiles:
            return encoded
        on_grid = torch.from_numpy(processed.places[processed.places[:, 0] >= 0])
        evidence, spent = self.clip.read(frames, on_grid, self.writer.is_cropped(processed))
        evidence = evidence.to(encoded.tokens.values.device)
        evidence = evidence if encoded.cut is None else encoded.cut.reduction.apply(evidence, JOINT.combine)
        tokens = replace(encoded.tokens, evidence={**encoded.tokens.evidence, JOINT: evidence})
        times = {**encoded.evidence_milliseconds, JOINT: spent}
        return replace(encoded, tokens=tokens, evidence_milliseconds=times)

    def answer(self, clips: Sequence[Clip], pipeline: Pipeline, encodings: Encodings) -> Iterator[Answer]:
        """Answers every question about the clips; yields each batch's answers as soon as they exist."""
        requests = self._requests(clips, pipeline, encodings)
        while batch := list(islice(requests, self.settings.batch_size)):
            yield from (item for item in batch if isinstance(item, Answer))
            ready = [item for item in batch if isinstance(item, Request)]
            if ready:
                yield from self.generate(ready)

    def _requests(self, clips: Sequence[Clip], pipeline: Pipeline, encodings: Encodings) -> Iterator[Request | Answer]:
        for clip in clips:
            for sample in clip.samples:
                try:
                    yield self.reduce(clip, sample, pipeline, encodings)
                except SampleError as error:
                    yield Answer(sample, error=str(error))

    @torch.inference_mode()
    def reduce(self, clip: Clip, sample: Sample, pipeline: Pipeline, encodings: Encodings) -> Request:
        """Runs a pipeline on one question, up to the LLM; raises SampleError where that cannot be done."""
        if clip.media is None:
            raise SampleError(clip.error or "no media")
        content, clock = in_order(sample, clip), time.perf_counter()
        numbers = [part for part in content if isinstance(part, int)]
        candidates = [clip.media[number] for number in numbers]
        selection = self._select(candidates, sample, pipeline)
        selecting = time.perf_counter() - clock
        encoded = [encodings.get(clip, *shown, pipeline) for shown in zip(numbers, selection.frames, strict=True)]
        prompt = encodings.prompt(sample, content, encoded)
        synchronise(self.model.device)
        clock = time.perf_counter()
        questions, read = self.embed_question(sample.question, pipeline)
        visual = self.reduce_grid(encoded, questions, prompt, sample, pipeline)
        synchronise(self.model.device)
        compressing = time.perf_counter() - clock
        whole = zip(candidates, selection.frames, encoded, prompt.media, strict=True)
        shown = sum(len(frames.numbers) for frames in selection.frames)
        trace = Trace(
            media=tuple(untouched_medium(*medium) for medium in whole),
            steps=(*selection.steps, *visual.steps),
            prompt_tokens=len(prompt) + self._unselected(candidates, selection.frames, prompt),
            prefill_tokens=len(visual.rewrite.arrangement) if visual.rewrite else len(prompt),
            grids=tuple(each.tokens.grid for each in encoded),
            passes=tuple(each.processed.passes for each in encoded),
            tower_tokens=tuple(each.cut.tokens if each.cut else () for each in encoded),
            projected_tokens=visual.projected,
            auxiliary_frames=shown if JOINT in pipeline.needs() else 0,
            auxiliary_scored=selection.scored,
            auxiliary_text=(*selection.texts, *read),
            auxiliary_pooled=sum(each.processed.passes for each in encoded) if POOLING in pipeline.needs() else 0,
        )
        encoding = sum((each.charge(pipeline.needs()) for each in encoded), start=0.0)
        compressing = 1000 * (selecting + compressing)
        return Request(sample, prompt, tuple(encoded), visual.rewrite, visual.passage, trace, encoding, compressing)

    def _unselected(self, candidates: Sequence[Frames], selected: Sequence[Frames], prompt: Prompt) -> int:
        """Prompt tokens of the frames that frame selection left out."""
        tokens = 0
        for whole, shown, medium in zip(candidates, selected, prompt.media, strict=True):
            per_frame = len(medium.visual) // len(shown.numbers)
            left_out = set(whole.numbers) - set(shown.numbers)
            markers = zip(whole.numbers, self.writer.marker_tokens(whole), strict=True)
            tokens += sum(per_frame + length for number, length in markers if number in left_out)
        return tokens

    def _select(self, candidates: Sequence[Frames], sample: Sample, pipeline: Pipeline) -> Selection:
        """Frame selection, video by video; there is nothing to select from in an image."""
        media, steps, scored, texts = list(candidates), [], 0, ()
        for method in pipeline.at(FrameSelection):
            for place, frames in enumerate(media):
                if frames.still:
                    continue
                generator, evidence = seeded_generator(self.seed, method.name, sample.uid), {}
                if self.clip is not None and FRAME_SCORES in method.needs():
                    evidence[FRAME_SCORES], read = self.clip.score_frames(frames, sample.question)
                    scored, texts = scored + len(frames.numbers), (*texts, *read)
                seconds = torch.from_numpy(frames.seconds)
                view = FrameView(len(frames.numbers), seconds, sample.question, evidence, generator)
                chosen = method.select_frames(view).check()
                media[place] = frames.at(chosen.anchor.numpy())
                steps.append(Step("frames", method.name, place, chosen))
        return Selection(media, steps, scored, texts)

    def reduce_grid(
        self,
        encoded: Sequence[Encoded],
        questions: dict[Evidence, Tensor],
        prompt: Prompt,
        sample: Sample,
        pipeline: Pipeline,
    ) -> Reduced:
        """The visual-token stage, behind what the tower lost."""
        projector = self.family.projector_of(self.model)
        return reduce_visual_tokens(encoded, questions, prompt, sample, pipeline, self.seed, projector)

    def embed_question(self, question: str, pipeline: Pipeline) -> tuple[dict[Evidence, Tensor], tuple[int, ...]]:
        """The question in every space that some method compares it in, and the lengths of texts CLIP read for it."""
        evidence, texts = {}, ()
        if (words := QuestionEmbeddings("llm")) in pipeline.needs():
            ids = self.writer.processor.tokenizer(question, add_special_tokens=False, return_tensors="pt")["input_ids"]
            evidence[words] = self.model.get_input_embeddings()(ids[0].to(self.model.device))
        if self.clip is not None and (joint := QuestionEmbeddings("clip")) in pipeline.needs():
            evidence[joint], texts = self.clip.embed_question(question)
        return evidence, texts

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers a batch of prompts greedily; all come from the same pipeline."""
        device = self.model.device
        rewrites = [request.rewrite for request in requests if request.rewrite is not None]
        passages = [request.passage() for request in requests if request.passage is not None]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        synchronise(device)
        started, prefilled = time.perf_counter(), []

        def stop_prefill_clock() -> None:
            synchronise(device)
            prefilled.append(time.perf_counter())

        with ExitStack() as stack:
            stack.enter_context(after_first_call(self.model, stop_prefill_clock))
            stack.enter_context(reduced(self.model, rewrites, passages))
            sequences = self.decode(requests, max_new_tokens=self.settings.max_new_tokens)
        synchronise(device)
        prefill, decode = prefilled[0] - started, time.perf_counter() - prefilled[0]
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        self._count_padding(requests)
        share = 1000 / len(requests)
        return [
            self._read(request, passage, row, prefill * share, decode * share, peak)
            for request, passage, row in zip(
                requests,
                passages or repeat(None, len(requests)),
                sequences.tolist(),
                strict=True,
            )
        ]

    def decode(self, requests: Sequence[Request], **more: Any) -> Int[Tensor, "b n"]:
        """The stock `generate` on a batch of untouched prompts, greedy; the new tokens."""
        inputs = self._pad(requests)
        outputs = encoder_outputs([each for request in requests for each in request.encoded])
        sequences = self.model.generate(
            **inputs,
            **({"mm_encoder_outputs": outputs} if outputs else {}),
            **more,
            do_sample=False,
            num_beams=1,
            use_cache=True,
        )
        return sequences[:, inputs["input_ids"].shape[1] :]

    def _pad(self, requests: Sequence[Request]) -> dict[str, Tensor]:
        """Untouched prompts, padded on the left, and what the LLM must be told of their media."""
        ids, mask = left_padded([request.prompt.ids for request in requests], self.pad_token_id)
        device = self.model.device
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        media = [each.processed for request in requests for each in request.encoded]
        if any("mm_token_type_ids" in each.inputs for each in media):
            kinds = self.writer.processor.create_mm_token_type_ids(ids.tolist())
            inputs["mm_token_type_ids"] = torch.tensor(kinds)
        for name in dict.fromkeys(name for each in media for name in each.reading.extras):
            inputs[name] = torch.cat([each.inputs[name] for each in media if name in each.reading.extras])
        return {name: value.to(device) for name, value in inputs.items()}

    @property
    def pad_token_id(self) -> int:
        """What fills a batch on the left; never read, so that any id but the placeholder's will do."""
        tokenizer = self.writer.processor.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def _count_padding(self, requests: Sequence[Request]) -> None:
        lengths = [request.trace.prefill_tokens for request in requests]
        self.tokens_read += max(lengths) * len(lengths)
        self.tokens_padded += max(lengths) * len(lengths) - sum(lengths)

    def answer_length(self, ids: list[int]) -> int:
        """Tokens of an answer up to its end of sequence, padding left out."""
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        return next((index + 1 for index, token in enumerate(ids) if token in ends), len(ids))

    def _read(
        self, request: Request, passage: Passage | None, ids: list[int], prefill: float, decode: float, peak: int | None
    ) -> Answer:
        """One row of the batch, cut after its own end of sequence."""
        length = self.answer_length(ids)
        text = self.writer.processor.tokenizer.decode(ids[:length], skip_special_tokens=True)
        return Answer(
            request.sample,
            text.strip(),
            tuple(ids[:length]),
            finished(request.trace, passage, length),
            request.encode_milliseconds,
            request.compress_milliseconds,
            prefill,
            decode,
            peak,
        )


class Encodings:
    """The media of one batch of clips, each encoded once, and each question written once, however many arms share them.

    Args:
        needs: The evidence that some arm looks at.
    """

    def __init__(self, mllm: FrozenMLLM, needs: frozenset[Evidence]) -> None:
        self.mllm, self.needs = mllm, needs
        self._done: dict[tuple[str, int, tuple[int, ...], str], Encoded | SampleError] = {}
        self._written: dict[tuple, Prompt] = {}

    def get(self, clip: Clip, number: int, frames: Frames, pipeline: Pipeline) -> Encoded:
        """The encoding of one of a clip's media, for these frames and what a pipeline does inside the tower.

        Raises SampleError, every time, if it cannot be encoded.
        """
        inside = pipeline.at(TowerReduction)
        key = (clip.cluster, number, frames.numbers, fingerprint(Pipeline(inside).describe()))
        if key not in self._done:
            noise = [seeded_generator(self.mllm.seed, method.name, clip.cluster) for method in inside]
            tower = next(map(TowerMethod, inside, noise), None)
            try:
                self._done[key] = self.mllm.encode(frames, self.needs, tower)
            except SampleError as error:
                self._done[key] = error
        found = self._done[key]
        if isinstance(found, SampleError):
            raise found
        return found

    def prompt(self, sample: Sample, content: Sequence[str | int], encoded: Sequence[Encoded]) -> Prompt:
        """The sample's prompt about encoded media; raises SampleError, every time, if it cannot be asked."""
        shown = [each.processed for each in encoded if isinstance(each.processed, Shown)]
        key, writer = (sample.uid, *(each.frames.numbers for each in shown)), self.mllm.writer
        if key not in self._written:
            media = iter(shown)
            parts = [part if isinstance(part, str) else next(media) for part in content]
            self._written[key] = writer.write(parts, self.mllm.settings.max_new_tokens)
        return self._written[key]
