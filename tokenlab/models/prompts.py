"""Prompts: from a clip and a question to token ids, through the checkpoint's own processor and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from jaxtyping import Int
from PIL import Image
from transformers import PretrainedConfig

from tokenlab.data.samples import Frames
from tokenlab.errors import SampleError
from tokenlab.models.arrangement import Medium, Prompt, Span
from tokenlab.models.families import Family, Kind, Reading
from tokenlab.models.grids import Inputs, Places

FRAMES_PER_SECOND = 24.0  # what processors take for granted of a video of unknown rate


@dataclass(frozen=True)
class Processed:
    """What the checkpoint's processor made of one medium, whatever is asked about it.

    Attributes:
        reading: How the family reads it.
        inputs: The processor's output, as the tower and the LLM read it.
        places: Where its tokens lie on its token grid.
    """

    reading: Reading
    inputs: Inputs
    places: Places

    @property
    def passes(self) -> int:
        """How often the tower runs for it: once a frame, a tile, or a few frames taken together."""
        for name, value in self.inputs.items():
            if name.endswith("grid_thw"):
                return int(value[0, 0])
        (pixels,) = (value for name, value in self.inputs.items() if name.startswith("pixel_values"))
        return pixels.flatten(0, -4).shape[0]

    @property
    def in_tiles(self) -> bool:
        """Whether it is an image whose tiles lie on the grid one after the other, wherever in it they are from."""
        return bool(self.reading.last_tag) and self.reading.content == "image" and self.passes > 1


@dataclass(frozen=True)
class Shown(Processed):
    """A medium that is still to be written into prompts.

    Attributes:
        frames: What was processed.
        replacements: What its placeholder words in a prompt expand to.
    """

    frames: Frames
    replacements: list[str]


class PromptWriter:
    """Writes prompts for one checkpoint; the processor reads a medium's pixels once, however many questions follow."""

    def __init__(self, processor: Any, config: PretrainedConfig, family: Family) -> None:
        self.processor, self.config, self.family = processor, config, family
        self.frame_text = getattr(config, "frame_text", family.frame_text)
        self.context = config.get_text_config().max_position_embeddings

    def reading(self, frames: Frames) -> Reading:
        """How the family reads this medium; raises SampleError where it cannot."""
        reading = self.family.image if frames.still else self.family.video
        if reading is None:
            raise SampleError(f"{self.family.name} reads no video")
        return reading

    def process(self, frames: Frames) -> Shown:
        """Pixels for the tower, and what a prompt needs to know of them."""
        reading, shown = self.reading(frames), frames
        if len(frames.numbers) < reading.fewest_frames:
            shown = _repeated(frames, reading.fewest_frames)
        # Pillow's images say themselves where their channels are, which arrays of odd sizes do not
        images = map(Image.fromarray, shown.pixels)
        pictures: list[Any] = list(images) if reading.content == "image" else [shown.pixels]
        pictures = [pictures] if reading.nested else pictures
        media: dict[str, Any] = {f"{reading.content}s": pictures}
        if reading.content == "video":
            media |= {"do_sample_frames": False, "video_metadata": [_metadata(shown)]}
        text = [self.render([shown, ""])]
        try:
            output = dict(self.processor(text=text, **media, return_text_replacement_offsets=True, return_tensors="pt"))
        except (ValueError, ArithmeticError, RuntimeError) as error:
            what = "an image" if frames.still else f"{len(frames.numbers)} frames"
            size = "x".join(map(str, frames.pixels.shape[2:0:-1]))
            reason = str(error).splitlines()[0]
            raise SampleError(f"the checkpoint's processor cannot read {what} of {size} pixels: {reason}") from error
        replacements = [entry["replacement"] for entry in output.pop("text_replacement_offsets")[0]]
        inputs = {name: value for name, value in output.items() if name not in ("input_ids", "attention_mask")}
        return Shown(reading, inputs, reading.places(self.config, inputs), frames, replacements)

    def is_cropped(self, processed: Processed) -> bool:
        """Whether the tower only sees the middle square of a picture; a mosaic of tiles is all of it."""
        part = getattr(self.processor, f"{processed.reading.content}_processor")
        return bool(getattr(part, "do_center_crop", False)) and "image_sizes" not in processed.inputs

    def write(self, parts: Sequence[str | Shown], new_tokens: int) -> Prompt:
        """A prompt of texts and media in order; raises SampleError for one that cannot be asked."""
        texts = [part for part in parts if isinstance(part, str)]
        media = [part for part in parts if isinstance(part, Shown)]
        if not "".join(texts).strip():
            raise SampleError("the question is empty")
        for word in (getattr(self.processor, f"{kind}_token", None) for kind in get_args(Kind)):
            if word and any(word in text for text in texts):
                raise SampleError(f"the question contains the placeholder {word!r}")
        replacements = {
            f"{kind}s_replacements": [r for each in media if each.reading.content == kind for r in each.replacements]
            for kind in get_args(Kind)
        }
        rendered = self.render([part if isinstance(part, str) else part.frames for part in parts])
        expanded, _ = self.processor.get_text_with_replacements([rendered], **replacements)
        ids = np.asarray(self.processor.tokenizer(expanded[0])["input_ids"])
        if len(ids) + new_tokens > self.context:
            raise SampleError(
                f"prompt of {len(ids)} tokens and an answer of up to {new_tokens} exceed the context of {self.context}"
            )
        return Prompt(ids, self.locate(ids, media))

    def render(self, parts: Sequence[str | Frames]) -> str:
        """The chat template's text, with one placeholder word an image or video."""
        content: list[dict[str, str]] = []
        for part in parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            elif (reading := self.reading(part)).item_per_frame:
                content += [item for index in range(len(part.numbers)) for item in self._frame_items(part, index)]
            else:
                content.append({"type": reading.content})
        messages = [{"role": "user", "content": content}]
        return self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def marker_tokens(self, frames: Frames) -> list[int]:
        """How many tokens the text before each frame has."""
        if not self.reading(frames).item_per_frame or not self.frame_text:
            return [0] * len(frames.numbers)
        tokenizer = self.processor.tokenizer
        texts = [self._marker(frames, index) for index in range(len(frames.numbers))]
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def _marker(self, frames: Frames, index: int) -> str:
        return self.frame_text.format(number=frames.numbers[index] + 1, seconds=frames.seconds[index])

    def _frame_items(self, frames: Frames, index: int) -> list[dict[str, str]]:
        marker = self._marker(frames, index)
        return [*([{"type": "text", "text": marker}] if marker else []), {"type": "image"}]

    def locate(self, ids: Int[np.ndarray, " s"], media: Sequence[Processed]) -> tuple[Medium, ...]:
        """Where each medium is: placeholders of one kind belong to its media in order."""
        placeholders = {each.reading.placeholder for each in media} | {self.family.image.placeholder}
        left = {name: np.nonzero(ids == getattr(self.config, name))[0] for name in placeholders}
        wanted = {name: sum(len(m.places) for m in media if m.reading.placeholder == name) for name in placeholders}
        for name, visual in left.items():
            if len(visual) != wanted[name]:
                raise SampleError(f"{len(visual)} placeholders in the prompt for {wanted[name]} visual tokens")
        located = []
        for each in media:
            name, size = each.reading.placeholder, len(each.places)
            visual, left[name] = left[name][:size], left[name][size:]
            located.append(self._medium(visual, each))
        return tuple(located)

    def _medium(self, visual: Int[np.ndarray, " n"], processed: Processed) -> Medium:
        places, reading = processed.places, processed.reading
        on_grid = places[:, 0] >= 0
        closing = reading.closing if self.frame_text or not reading.item_per_frame else None
        markers = _markers(visual, places[:, 0], closing, reading.joint)
        return Medium(visual[on_grid], places[on_grid], visual[~on_grid], markers)


def _markers(
    visual: Int[np.ndarray, " n"], frame: Int[np.ndarray, " n"], closing: int | None, joint: int
) -> tuple[tuple[Span, Span], ...]:
    """The text that belongs to each frame, cut out of what stands between consecutive frames.

    Args:
        visual: Sequence indices of the medium's visual tokens.
        frame: The frame of each; -1 outside the grid.
        closing: How many tokens after a frame belong to it, the rest being the next one's; None: all of them.
        joint: How many of the tokens before a frame the first frame lacks.
    """
    frames = [visual[frame == index] for index in range(int(frame.max()) + 1)]
    starts, ends = [int(each[0]) for each in frames], [int(each[-1]) + 1 for each in frames]
    gaps = [start - end for start, end in zip(starts[1:], ends[:-1], strict=True)]
    after = [gap if closing is None else min(closing, gap) for gap in gaps]
    before = [gap - length for gap, length in zip(gaps, after, strict=True)]
    if gaps:  # the first frame is introduced, and the last one closed, like its neighbour
        before, after = [max(0, before[0] - joint), *before], [*after, after[-1]]
    else:  # a medium's only frame cannot lose all its tokens
        before = after = [0]
    return tuple(
        ((start - lead, start), (end, end + tail))
        for start, end, lead, tail in zip(starts, ends, before, after, strict=True)
    )


def _metadata(frames: Frames) -> dict[str, Any]:
    """What a video processor is told of frames that were chosen for it: when they are, and how dense."""
    numbers, seconds = list(frames.numbers), frames.seconds
    span = float(seconds[-1] - seconds[0])
    rate = (numbers[-1] - numbers[0]) / span if span > 0 else FRAMES_PER_SECOND
    gap = span / (len(numbers) - 1) if len(numbers) > 1 else 1 / rate
    length = max(1, round(rate * gap * len(numbers)))  # from which processors compute the mean time between frames
    return {"total_num_frames": length, "fps": rate, "duration": length / rate, "frames_indices": numbers}


def _repeated(frames: Frames, fewest: int) -> Frames:
    """The last frame again, for processors that refuse a shorter video."""
    index = [min(k, len(frames.numbers) - 1) for k in range(fewest)]
    return Frames(frames.pixels[index], tuple(frames.numbers[k] for k in index), frames.seconds[index], frames.still)
