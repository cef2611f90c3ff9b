"""Splitting a processor's output into prompts and their media, from the places of their placeholders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PretrainedConfig

from tokenlab.errors import UserError
from tokenlab.models.families import Family, MediaSpec
from tokenlab.models.families.base import placeholders
from tokenlab.models.families.media import ProcessorOutput, pixel_std
from tokenlab.models.families.splitting import flat_tiles, num_media, pixels_name

Pictures = Literal["images", "frames"]


class MediaSplitter:
    """Hands out the media in a processor's output, prompt by prompt in the order of their placeholders.

    Args:
        processor: The stock processor.
        config: The model's config.
        family: Its family's facts.
        inputs: The processor's output for a batch of prompts.
        pictures: What several pictures of a prompt are, where frames stand in it as images.
    """

    def __init__(
        self,
        processor: Any,
        config: PretrainedConfig,
        family: Family,
        inputs: Mapping[str, Any],
        pictures: Pictures | None,
    ) -> None:
        self.processor, self.config, self.family, self.pictures = processor, config, family, pictures
        self.inputs = {**inputs, **flat_tiles(inputs)} if family.frames_share_placeholder else inputs
        self.taken = {"image": 0, "video": 0}  # media; tiles, where frames stand as images
        self.row = -1

    def next_prompt(self, ids: Int[Tensor, " s"]) -> list[ProcessorOutput]:
        """The next prompt's media."""
        self.row += 1
        if self.family.frames_share_placeholder:
            return self._pictures(ids)
        found: list[tuple[int, ProcessorOutput]] = []
        for spec in filter(None, (self.family.image, self.family.video)):
            left = placeholders(ids, self.config, spec)
            while len(left):
                processed = self._take(spec, 1)
                if len(processed.places) > len(left):
                    raise UserError(
                        f"generate: {len(left)} placeholders in prompt {self.row} are too few for its next "
                        f"{spec.encoder}, of {len(processed.places)} visual tokens"
                    )
                found.append((int(left[0]), processed))
                left = left[len(processed.places) :]
        return [processed for _, processed in sorted(found, key=lambda each: each[0])]

    def check_all_taken(self) -> None:
        """Raises UserError for media that no prompt has a placeholder for."""
        for spec in filter(None, (self.family.image, self.family.video)):
            taken, there = self.taken[spec.encoder], num_media(spec, self.inputs)
            if taken != there:
                raise UserError(f"generate: {there} {spec.encoder}s, but placeholders for {taken}")

    def _pictures(self, ids: Int[Tensor, " s"]) -> list[ProcessorOutput]:
        """The prompt's media where frames stand in it as images: every image, or one video of them all."""
        frames, image = self.pictures == "frames", self.family.image
        where = placeholders(ids, self.config, image)
        if not len(where):
            return []
        self._check_pixels(image)
        size = len(image.places(self.config, {"pixel_values": self.inputs["pixel_values"][:1]}))
        tiles = where[: len(where) // size * size].reshape(-1, size)
        numbers = [len(tiles)] if frames else self._tiles_of_images(ids, tiles)
        if sum(numbers) * size != len(where):
            raise UserError(f"generate: the {len(where)} placeholders in prompt {self.row} are not of whole pictures")
        if self.pictures is None and len(numbers) > 1:
            raise UserError(
                f"generate: prompt {self.row} has {len(numbers)} pictures, which are images or frames of one video: "
                "say compress(..., pictures='images') or pictures='frames'"
            )
        spec = self.family.video if frames else image
        assert spec is not None
        return [self._take(spec, number) for number in numbers]

    def _tiles_of_images(self, ids: Int[Tensor, " s"], tiles: Int[Tensor, "n t"]) -> list[int]:
        """How many tiles each image has, from the places of every tile's placeholders."""
        if not (name := self.family.image.last_tile_token):
            return [1] * len(tiles)
        last_tile = self.processor.tokenizer.convert_tokens_to_ids(getattr(self.processor, name))
        is_tag = torch.nn.functional.pad(ids == last_tile, (1, 1))  # as if text stood around the prompt
        ends = (is_tag[tiles[:, 0]] | is_tag[tiles[:, -1] + 2]).nonzero()[:, 0]
        return ends.diff(prepend=ends.new_tensor([-1])).tolist()

    def _take(self, spec: MediaSpec, number: int) -> ProcessorOutput:
        """The next medium, of so many tiles or frames where they are read one by one."""
        self._check_pixels(spec)
        start = self.taken[spec.encoder]
        self.taken[spec.encoder] += number
        if self.taken[spec.encoder] > num_media(spec, self.inputs):
            raise UserError(f"generate: prompt {self.row} has placeholders for more {spec.encoder}s than there are")
        own = spec.split(self.config, spec, self.inputs, slice(start, start + number))
        return ProcessorOutput(spec, own, spec.places(self.config, own), pixel_std(self.processor, spec))

    def _check_pixels(self, spec: MediaSpec) -> None:
        if self.inputs.get(pixels_name(spec, self.inputs)) is None:
            raise UserError(f"generate: prompt {self.row} has placeholders for more {spec.encoder}s than there are")
