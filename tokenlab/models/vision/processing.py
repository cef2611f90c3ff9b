"""From decoded frames to what the tower reads, through the checkpoint's own processor and chat template."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PretrainedConfig

from tokenlab.compressors.stages import Size
from tokenlab.data.samples import Frames
from tokenlab.errors import SampleError
from tokenlab.models.families import Family, MediaSpec
from tokenlab.models.families.media import PromptMedium, pixel_std, render_chat

CLOCK = 90_000
"""Ticks a second of the clock by which a processor is told when frames are: fine enough for any frame rate."""

SINGLE = 1 / 24
"""Seconds that processors take for granted of a frame alone."""


@dataclass(frozen=True)
class MediumSize:
    """What a medium takes up in a prompt.

    Attributes:
        grid_tokens: Tokens on its token grid.
        separators: Visual tokens outside the grid, such as newlines.
        text_tokens: Tokens of the words that the processor writes between them, such as names of tiles.
    """

    grid_tokens: int
    separators: int
    text_tokens: int

    @property
    def visual_tokens(self) -> int:
        """On the grid and outside."""
        return self.grid_tokens + self.separators

    def __sub__(self, other: MediumSize) -> MediumSize:
        """By how much the other is smaller."""
        return MediumSize(
            self.grid_tokens - other.grid_tokens,
            self.separators - other.separators,
            self.text_tokens - other.text_tokens,
        )


@dataclass(frozen=True)
class MediaProcessor:
    """The checkpoint's processor, asked for one medium at a time: pixels are read once, however many questions follow.

    Attributes:
        processor: The stock processor.
        config: The model's config.
        family: Its family's facts.
    """

    processor: Any
    config: PretrainedConfig
    family: Family

    @property
    def frame_text(self) -> str:
        """The template of the text before each frame."""
        return getattr(self.config, "frame_text", self.family.frame_text)

    def process(self, frames: Frames) -> PromptMedium:
        """Makes pixels for the tower, and what a prompt needs to know of them; raises SampleError where it cannot."""
        if (spec := self.family.spec(frames)) is None:
            raise SampleError(f"{self.family.name} reads no video")
        items = spec.chat_items(frames, self.frame_text)
        shown = _repeated(frames, spec.min_frames) if len(frames.numbers) < spec.min_frames else frames
        text = [render_chat(self.processor, [*items, {"type": "text", "text": ""}])]
        media = _media_arguments(spec, shown)
        try:
            output = dict(self.processor(text=text, **media, return_text_replacement_offsets=True, return_tensors="pt"))
        except (ValueError, ArithmeticError, RuntimeError) as error:
            what = "an image" if frames.is_image else f"{len(frames.numbers)} frames"
            size = "x".join(map(str, frames.pixels.shape[2:0:-1]))
            reason = str(error).splitlines()[0]
            raise SampleError(f"the checkpoint's processor cannot read {what} of {size} pixels: {reason}") from error
        replacements = [entry["replacement"] for entry in output.pop("text_replacement_offsets")[0]]
        inputs = {name: value for name, value in output.items() if name not in ("input_ids", "attention_mask")}
        places, std = spec.places(self.config, inputs), pixel_std(self.processor, spec)
        return PromptMedium(spec, inputs, places, std, frames, items, replacements)

    def size_at(self, frames: Frames, size: Size) -> MediumSize:
        """What so many frames, or an image, would take up at another size; worked out once, on blank pictures."""
        known, key = self._sizes, (len(frames.numbers), size, frames.is_image)
        if key not in known:
            pixels = np.zeros((len(frames.numbers), *size, 3), dtype=np.uint8)
            numbers, seconds = tuple(range(len(pixels))), np.arange(len(pixels), dtype=np.float64)
            processed = self.process(Frames(pixels, numbers, seconds, frames.is_image))
            on_grid = int((processed.places[:, 0] >= 0).sum())
            texts = self.processor.tokenizer(processed.replacements, add_special_tokens=False)["input_ids"]
            words = sum(map(len, texts)) - len(processed.places)
            known[key] = MediumSize(on_grid, len(processed.places) - on_grid, words)
        return known[key]

    @cached_property
    def _sizes(self) -> dict[tuple[int, Size, bool], MediumSize]:
        return {}

    def pictures(self, processed: PromptMedium) -> Frames:
        """What an auxiliary encoder is shown: the frames; or the tiles of an image that lies on the grid in tiles."""
        if not processed.in_tiles:
            return processed.frames
        part, tiles = self.processor.image_processor, processed.inputs["pixel_values"].flatten(0, -4).float()
        mean, std = (torch.tensor(each)[:, None, None] for each in (part.image_mean, part.image_std))
        shown = ((tiles * std + mean) / part.rescale_factor).round().clamp(0, 255).to(torch.uint8)
        return Frames(shown.movedim(1, -1).numpy(), tuple(range(len(shown))), np.zeros(len(shown)), is_image=True)

    def is_cropped(self, processed: PromptMedium) -> bool:
        """Whether the tower only sees the middle square of a picture; a mosaic of tiles is all of it."""
        part = getattr(self.processor, f"{processed.spec.content}_processor")
        return bool(getattr(part, "do_center_crop", False)) and "image_sizes" not in processed.inputs


def _media_arguments(spec: MediaSpec, frames: Frames) -> dict[str, Any]:
    """What the processor's call is told of the medium."""
    if spec.content == "video":
        return {"videos": [frames.pixels], "do_sample_frames": False, "video_metadata": [_metadata(frames)]}
    # Pillow's images say themselves where their channels are, which arrays of odd sizes do not
    pictures = [Image.fromarray(pixels) for pixels in frames.pixels]
    return {"images": [pictures] if spec.nested_images else pictures}


def _metadata(frames: Frames) -> dict[str, Any]:
    """What a video processor is told of frames that were chosen for it: when they are, and how dense.

    Processors take numbers for evenly spaced in time; true times, as numbers on a fine clock, are so at any frame rate.
    """
    seconds = frames.seconds
    gap = float(seconds[-1] - seconds[0]) / (len(seconds) - 1) if len(seconds) > 1 else SINGLE
    length = max(1, round(CLOCK * gap * len(seconds)))  # whence they compute the mean time between frames
    ticks = [round(CLOCK * second) for second in seconds.tolist()]
    return {"total_num_frames": length, "fps": float(CLOCK), "duration": length / CLOCK, "frames_indices": ticks}


def _repeated(frames: Frames, fewest: int) -> Frames:
    """The last frame again, for processors that refuse a shorter video."""
    index = [min(k, len(frames.numbers) - 1) for k in range(fewest)]
    return Frames(frames.pixels[index], tuple(frames.numbers[k] for k in index), frames.seconds[index], frames.is_image)
