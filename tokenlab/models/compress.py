"""Reductions on a model that somebody else loaded: its own `generate`, on its own processor's output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from tokenlab.compressors.base import FrameSelection, TokenCompressor, TowerReduction, seeded_generator
from tokenlab.compressors.evidence import QuestionEmbeddings
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.data.samples import Sample
from tokenlab.errors import UserError
from tokenlab.models.arrangement import Prompt
from tokenlab.models.blocks import TowerMethod
from tokenlab.models.decoding import check_call
from tokenlab.models.encoding import Encoded, encode, encoder_outputs
from tokenlab.models.families import Family, Kind, Reading
from tokenlab.models.frozen import FrozenMLLM
from tokenlab.models.hf import CACHE_NAMES
from tokenlab.models.layers import reduced
from tokenlab.models.prompts import Processed
from tokenlab.models.requests import finished
from tokenlab.models.visual_tokens import Reduced
from tokenlab.tensors import MediumShape, Trace

Pictures = Literal["images", "frames"]

NOWHERE = (0, 0)
NOT_PASSED_ON = ("image_sizes", "batch_num_images")  # which only belong to pixels


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

    `inputs` are what the checkpoint's own processor made of one prompt or several, padded on the left. Every image and
    every video is reduced by itself; where frames stand in the prompt as images (LLaVA-1.5, InternVL, SmolVLM), nothing
    tells several images from a video, and `pictures` has to say what they are.

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
            frames; and, from `generate`, for decoding that reduced prompts cannot have, such as beams, and for several
            pictures in a prompt that may be either.
    """
    pipeline = pipeline if isinstance(pipeline, Pipeline) else Pipeline(tuple(pipeline))
    mllm = FrozenMLLM.around(model, processor, seed)
    _check(mllm.family, pipeline, model, questions)
    _check_pictures(mllm.family, pictures)
    generate, traces = model.generate, []

    def compressed(*args: Any, **kwargs: Any) -> Any:
        if args:
            raise UserError("generate: give the processor's output by name, generate(**inputs)")
        _check_call(model, kwargs)
        call = _Call(mllm, pipeline, questions, pictures, kwargs)
        with reduced(model, call.rewrites, call.passages):
            output = generate(**call.arguments)
        traces.extend(call.traces(output))
        return output

    own = vars(model)
    outer = own.get("generate")  # where one context is inside another
    own["generate"] = compressed
    try:
        yield traces
    finally:
        own.pop("generate") if outer is None else own.update(generate=outer)


def _check(family: Family, pipeline: Pipeline, model: PreTrainedModel, questions: Sequence[str]) -> None:
    kernel = model.config._attn_implementation or "eager"
    for method in pipeline.active:
        if reason := family.refusal(method, kernel=kernel):
            raise UserError(f"compress: {reason}")
        if isinstance(method, FrameSelection):
            raise UserError(f"compress: {method.name} chooses frames, which is done before the processor reads them")
    if not questions and any(isinstance(need, QuestionEmbeddings) for need in pipeline.needs()):
        raise UserError("compress: a method looks at the question: give questions=[...], one a prompt")


def frames_as_images(family: Family) -> bool:
    """Whether a video's frames stand in the prompt as images."""
    return family.video is not None and family.video.placeholder == family.image.placeholder


def _check_pictures(family: Family, pictures: str | None) -> None:
    if pictures not in (None, *get_args(Pictures)):
        raise UserError(f"compress: pictures={pictures!r}: it is 'images', 'frames' or left out")
    if pictures == "frames" and not frames_as_images(family):
        raise UserError(f"compress: pictures='frames': in {family.name}'s prompts images are no frames; leave it out")


def _check_call(model: PreTrainedModel, kwargs: Mapping[str, Any]) -> None:
    """Raises UserError for decoding that the hooks cannot follow, however it is asked for."""
    for name in ("assistant_model", "custom_generate", "inputs_embeds", *CACHE_NAMES):
        if kwargs.get(name) is not None:
            raise UserError(f"generate asks for {name}, which reduced prompts cannot have; take it out")
    given = kwargs.get("generation_config") or model.generation_config
    check_call({**given.to_dict(), **kwargs}, "generate")


class _Call:
    """One call of `generate`: its prompts, taken apart and reduced."""

    def __init__(
        self,
        mllm: FrozenMLLM,
        pipeline: Pipeline,
        questions: Sequence[str],
        pictures: Pictures | None,
        kwargs: Mapping[str, Any],
    ) -> None:
        self.mllm, self.pipeline = mllm, pipeline
        ids = kwargs["input_ids"].cpu().numpy()
        mask = kwargs.get("attention_mask")
        mask = np.ones_like(ids) if mask is None else mask.cpu().numpy()
        if (np.diff(mask, axis=1) < 0).any():
            raise UserError("generate: prompts must be padded on the left (processor.tokenizer.padding_side = 'left')")
        if questions and len(questions) != len(ids):
            raise UserError(f"compress: {len(questions)} questions for {len(ids)} prompts")
        media = Media(mllm, kwargs, pictures)
        self.prompts, self.encoded = [], []
        for row, (every, real) in enumerate(zip(ids, mask, strict=True)):
            own = every[real == 1]
            processed = media.of_prompt(own)
            located = mllm.writer.locate(own, processed)
            if pictures == "frames":  # what stands between them may be anybody's words
                located = tuple(replace(each, markers=((NOWHERE, NOWHERE),) * len(each.markers)) for each in located)
            self.prompts.append(Prompt(own, located))
            self.encoded.append([self._encode(each, row) for each in processed])
        media.check_all_taken()
        questions = questions or [""] * len(ids)
        self.reduced = [self._reduce(row, question) for row, question in enumerate(questions)]
        self.rewrites = [each.rewrite for each in self.reduced if each.rewrite is not None]
        self.passages = [each.passage() for each in self.reduced if each.passage is not None]
        outputs = encoder_outputs([each for row in self.encoded for each in row])
        self.arguments = {
            name: value for name, value in kwargs.items() if not name.startswith("pixel_") and name not in NOT_PASSED_ON
        }
        if outputs:
            self.arguments["mm_encoder_outputs"] = outputs

    def _encode(self, processed: Processed, row: int) -> Encoded:
        inside = self.pipeline.at(TowerReduction)
        noise = [seeded_generator(self.mllm.seed, method.name, str(row)) for method in inside]
        tower = next(map(TowerMethod, inside, noise), None)
        return encode(self.mllm.model, self.mllm.family, processed, self.pipeline.needs(), tower)

    @torch.inference_mode()
    def _reduce(self, row: int, question: str) -> Reduced:
        evidence, _ = self.mllm.embed_question(question, self.pipeline) if question else ({}, ())
        sample = Sample(str(row), str(row), question)
        return self.mllm.reduce_grid(self.encoded[row], evidence, self.prompts[row], sample, self.pipeline)

    def traces(self, output: Any) -> list[Trace]:
        """What was done to every prompt."""
        sequences = output if isinstance(output, Tensor) else output.sequences
        answers = sequences[:, self.arguments["input_ids"].shape[1] :].tolist()
        return [self._trace(row, answer) for row, answer in enumerate(answers)]

    def _trace(self, row: int, answer: list[int]) -> Trace:
        prompt, encoded = self.prompts[row], self.encoded[row]
        image = self.mllm.family.image
        trace = Trace(
            media=tuple(
                MediumShape(len(medium.visual), len(medium.separators), each.processed.reading is image)
                for medium, each in zip(prompt.media, encoded, strict=True)
            ),
            steps=self.reduced[row].steps,
            prompt_tokens=len(prompt),
            prefill_tokens=len(self.rewrites[row].arrangement) if self.rewrites else len(prompt),
            grids=tuple(each.tokens.grid for each in encoded),
            passes=tuple(each.processed.passes for each in encoded),
            tower_tokens=tuple(each.cut.tokens if each.cut else () for each in encoded),
            projected_tokens=self.reduced[row].projected,
        )
        return finished(trace, self.passages[row] if self.passages else None, self.mllm.answer_length(answer))


class Media:
    """The media in a processor's output, handed out prompt by prompt in the order of their placeholders."""

    def __init__(self, mllm: FrozenMLLM, inputs: Mapping[str, Any], pictures: Pictures | None) -> None:
        self.config, self.family, self.processor = mllm.config, mllm.family, mllm.writer.processor
        self.inputs, self.pictures = inputs, pictures
        self.taken: dict[Kind, int] = {"image": 0, "video": 0}  # media; tiles, where frames stand as images
        self.patches: dict[Kind, int] = {"image": 0, "video": 0}  # rows of patches, where frames are packed
        self.row = -1

    def of_prompt(self, ids: Int[np.ndarray, " s"]) -> list[Processed]:
        """The next prompt's media."""
        self.row += 1
        if frames_as_images(self.family):
            return self._pictures(ids)
        found: list[tuple[int, Processed]] = []
        for kind in ("image",) if self.family.video is None else get_args(Kind):
            reading = getattr(self.family, kind)
            places = self._placeholders(ids, reading)
            while len(places):
                processed = self._next(kind, reading)
                if len(processed.places) > len(places):
                    raise UserError(
                        f"generate: {len(places)} placeholders in prompt {self.row} are too few for its next {kind}, "
                        f"of {len(processed.places)} visual tokens"
                    )
                found.append((int(places[0]), processed))
                places = places[len(processed.places) :]
        return [processed for _, processed in sorted(found, key=lambda each: each[0])]

    def _placeholders(self, ids: Int[np.ndarray, " s"], reading: Reading) -> Int[np.ndarray, " n"]:
        return np.flatnonzero(ids == getattr(self.config, reading.placeholder))

    def _pictures(self, ids: Int[np.ndarray, " s"]) -> list[Processed]:
        """The prompt's media where frames stand in it as images: every image, or one video of them all."""
        frames, image = self.pictures == "frames", self.family.image
        if not len(places := self._placeholders(ids, image)):
            return []
        size = len(image.places(self.config, {"pixel_values": self._pixels("image").flatten(0, -4)[:1]}))
        tiles = places[: len(places) // size * size].reshape(-1, size)
        numbers = [len(tiles)] if frames else self._tiles_of_images(ids, tiles)
        if sum(numbers) * size != len(places):
            raise UserError(f"generate: the {len(places)} placeholders in prompt {self.row} are not of whole pictures")
        if self.pictures is None and len(numbers) > 1:
            raise UserError(
                f"generate: prompt {self.row} has {len(numbers)} pictures, which are images or frames of one video: "
                "say compress(..., pictures='images') or pictures='frames'"
            )
        reading: Any = self.family.video if frames else image
        return [self._take(reading, number) for number in numbers]

    def _tiles_of_images(self, ids: Int[np.ndarray, " s"], tiles: Int[np.ndarray, "n t"]) -> list[int]:
        """How many tiles each image has, from the places of every tile's placeholders."""
        if not (name := self.family.image.last_tag):
            return [1] * len(tiles)
        tag = self.processor.tokenizer.convert_tokens_to_ids(getattr(self.processor, name))
        is_tag = np.pad(ids == tag, 1)  # as if text stood around the prompt
        last = is_tag[tiles[:, 0]] | is_tag[tiles[:, -1] + 2]
        return np.diff(np.flatnonzero(last), prepend=-1).tolist()

    def _take(self, reading: Reading, number: int) -> Processed:
        """The next medium, of so many tiles or frames."""
        here = slice(self.taken["image"], self.taken["image"] + number)
        self.taken["image"] += number
        own = {name: value[here] for name, value in self.tiles.items()}
        if len(own["pixel_values"]) < number:
            raise UserError(f"generate: prompt {self.row} has placeholders for a picture that is not there")
        if self._pixels("image").ndim == 5:
            own = {name: value[None] for name, value in own.items()}
        return Processed(reading, own, reading.places(self.config, own))

    @cached_property
    def tiles(self) -> dict[str, Tensor]:
        """Tiles and frames one after the other; SmolVLM's are in rows, filled up with black, which its model skips."""
        own = {name: value for name, value in self.inputs.items() if name.startswith("pixel_")}
        if self._pixels("image").ndim < 5:
            return own
        real = (self._pixels("image") != 0).flatten(2).any(-1)
        return {name: value[real] for name, value in own.items()}

    def _next(self, kind: Kind, reading: Reading) -> Processed:
        """The next image or video of the batch."""
        pixels, place = self._pixels(kind), self.taken[kind]
        self.taken[kind] += 1
        names = [name for name in (f"{kind}_grid_thw", *reading.extras, "image_sizes") if name in self.inputs]
        own = {name: torch.as_tensor(self.inputs[name])[place : place + 1] for name in names}
        if (grid := own.get(f"{kind}_grid_thw")) is not None:
            start = self.patches[kind]
            self.patches[kind] += int(grid.prod())
            pixels = pixels[start : self.patches[kind]]
        else:
            pixels = pixels[place : place + 1]
        if not len(pixels):
            raise UserError(f"generate: prompt {self.row} has a placeholder for {kind} {place}, which is not there")
        if kind == "image" and "image_sizes" in own:  # the batch is padded to the image with the most tiles
            size = own["image_sizes"][0].tolist()
            shape = (self.config.image_grid_pinpoints, self.config.vision_config.image_size)
            pixels = pixels[:, : 1 + math.prod(get_anyres_image_grid_shape(size, *shape))]
        own[self._name(kind)] = pixels
        return Processed(reading, own, reading.places(self.config, own))

    def _name(self, kind: Kind) -> str:
        """What the pixels are called."""
        own = f"pixel_values_{kind}s"
        return own if own in self.inputs or kind == "video" else "pixel_values"

    def _pixels(self, kind: Kind) -> Tensor:
        if (pixels := self.inputs.get(self._name(kind))) is None:
            raise UserError(f"generate: prompt {self.row} has a placeholder for {kind} 0, which is not there")
        return pixels

    def check_all_taken(self) -> None:
        """Raises UserError for media that no prompt has a placeholder for."""
        for kind, taken in self.taken.items():
            if (pixels := self.inputs.get(self._name(kind))) is None:
                continue
            grid = self.inputs.get(f"{kind}_grid_thw")
            rows = self.tiles["pixel_values"] if frames_as_images(self.family) else pixels if grid is None else grid
            if taken != (there := len(rows)):
                raise UserError(f"generate: {there} {kind}s, but placeholders for {taken}")
