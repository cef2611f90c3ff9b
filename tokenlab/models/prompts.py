"""Prompts: from a clip and a question to token ids, through the checkpoint's own processor and chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PretrainedConfig

from tokenlab.data.samples import Frames
from tokenlab.errors import SampleError
from tokenlab.models.families import Family

Span = tuple[int, int]


@dataclass(frozen=True)
class Prompt:
    """One prompt with one medium, and where everything is in it.

    Attributes:
        ids: Token ids, placeholders included, unpadded.
        visual: Sequence index of each grid token, in raster order.
        markers: For each frame, the text that belongs to it and goes when the frame loses all its tokens.
    """

    ids: Int[np.ndarray, " s"]
    visual: Int[np.ndarray, " n"]
    markers: tuple[Span, ...]

    def __len__(self) -> int:
        """Tokens of the prompt."""
        return self.ids.shape[0]


class PromptWriter:
    """Writes prompts for one checkpoint; the processor reads a clip's pixels once, however many questions follow."""

    def __init__(self, processor: Any, config: PretrainedConfig, family: Family) -> None:
        self.processor, self.family = processor, family
        self.placeholder = family.placeholder_id(config)
        self.rows, self.columns = family.grid(config)
        self.frame_text = getattr(config, "frame_text", family.frame_text)
        self.context = config.get_text_config().max_position_embeddings

    def pixels(self, frames: Frames) -> tuple[Tensor, list[str]]:
        """What the tower reads, and what each placeholder word of a prompt expands to."""
        media = {"images": list(frames.pixels)} if self.family.modality == "image" else {"videos": [frames.pixels]}
        sampling = {} if self.family.modality == "image" else {"do_sample_frames": False}
        text = [self.render(frames, "")]
        output = self.processor(text=text, **media, **sampling, return_text_replacement_offsets=True)
        pixels = torch.stack([torch.as_tensor(picture) for picture in output[self.family.pixels]])
        return pixels, [entry["replacement"] for entry in output["text_replacement_offsets"][0]]

    def write(self, frames: Frames, question: str, replacements: list[str], new_tokens: int) -> Prompt:
        """The prompt of one question; raises SampleError for a question that cannot be asked."""
        if not question.strip():
            raise SampleError("the question is empty")
        word = getattr(self.processor, f"{self.family.modality}_token")
        if word in question:
            raise SampleError(f"the question contains the placeholder {word!r}")
        texts, _ = self.processor.get_text_with_replacements(
            [self.render(frames, question)], **{f"{self.family.modality}s_replacements": replacements}
        )
        ids = np.asarray(self.processor.tokenizer(texts[0])["input_ids"])
        if len(ids) + new_tokens > self.context:
            raise SampleError(
                f"prompt of {len(ids)} tokens and an answer of up to {new_tokens} exceed the context of {self.context}"
            )
        return self._locate(ids, frames)

    def render(self, frames: Frames, question: str) -> str:
        """The chat template's text, with one placeholder word a medium."""
        if self.family.modality == "image":
            content = [item for index in range(len(frames.numbers)) for item in self._frame_items(frames, index)]
        else:
            content = [{"type": "video"}]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        return self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def marker(self, frames: Frames, index: int) -> str:
        """The text before one frame."""
        return self.frame_text.format(number=frames.numbers[index] + 1, seconds=frames.seconds[index])

    def frame_tokens(self, frames: Frames) -> int:
        """Prompt tokens of a clip's frames: grid tokens and markers."""
        return sum(
            self.rows * self.columns + self._marker_tokens(frames, index) for index in range(len(frames.numbers))
        )

    def _marker_tokens(self, frames: Frames, index: int) -> int:
        marker = self.marker(frames, index)
        return len(self.processor.tokenizer(marker, add_special_tokens=False)["input_ids"]) if marker else 0

    def _frame_items(self, frames: Frames, index: int) -> list[dict[str, str]]:
        marker = self.marker(frames, index)
        return [*([{"type": "text", "text": marker}] if marker else []), {"type": "image"}]

    def _locate(self, ids: Int[np.ndarray, " s"], frames: Frames) -> Prompt:
        (visual,) = np.nonzero(ids == self.placeholder)
        num_frames, per_frame = len(frames.numbers), self.rows * self.columns
        grid = visual[: num_frames * per_frame]  # separators come after the grid, in the same run
        if len(visual) != num_frames * per_frame + self.family.separators:
            raise SampleError(f"{len(visual)} placeholders in the prompt, {num_frames} frames of {per_frame} tokens")
        starts, ends = grid[::per_frame], grid[per_frame - 1 :: per_frame] + 1
        first = self._marker_tokens(frames, 0)
        # between two frames stands the text of the later one; what precedes the first is known from its marker
        markers = [(int(starts[0]) - first, int(starts[0])), *zip(ends[:-1].tolist(), starts[1:].tolist(), strict=True)]
        return Prompt(ids, grid, tuple(markers))
