"""Prompts: from media and a question to token ids, through the checkpoint's own processor and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PretrainedConfig

from tokenlab.data.samples import Frames
from tokenlab.errors import SampleError
from tokenlab.models.families import Family
from tokenlab.models.families.base import FrameItem, Kind, frame_texts, placeholders
from tokenlab.models.families.media import ProcessorOutput, PromptMedium, render_chat
from tokenlab.tokens.sequence import Medium, Prompt, Span


@dataclass(frozen=True)
class PromptWriter:
    """Writes prompts for one checkpoint.

    Attributes:
        processor: The stock processor.
        config: The model's config.
        family: Its family's facts.
        frame_text: The template of the text before each frame.
    """

    processor: Any
    config: PretrainedConfig
    family: Family
    frame_text: str

    def write(self, parts: Sequence[str | PromptMedium], new_tokens: int) -> Prompt:
        """Writes a prompt of texts and media in order; raises SampleError for one that is too long."""
        media = [part for part in parts if isinstance(part, PromptMedium)]
        content: list[FrameItem] = []
        for part in parts:
            content += [{"type": "text", "text": part}] if isinstance(part, str) else part.items
        replacements = {
            f"{kind}s_replacements": [r for each in media if each.spec.content == kind for r in each.replacements]
            for kind in get_args(Kind)
        }
        expanded, _ = self.processor.get_text_with_replacements([render_chat(self.processor, content)], **replacements)
        ids = torch.tensor(self.processor.tokenizer(expanded[0])["input_ids"])
        context = self.config.get_text_config().max_position_embeddings
        if len(ids) + new_tokens > context:
            raise SampleError(
                f"prompt of {len(ids)} tokens and an answer of up to {new_tokens} exceed the context of {context}"
            )
        return Prompt(ids, self.locate(ids, media))

    def marker_tokens(self, frames: Frames) -> list[int]:
        """How many tokens the text before each frame has."""
        spec = self.family.spec(frames)
        if spec is None or not spec.frames_as_images or not self.frame_text:
            return [0] * len(frames.numbers)
        texts = frame_texts(frames, self.frame_text)
        return [len(ids) for ids in self.processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def locate(self, ids: Int[Tensor, " s"], media: Sequence[ProcessorOutput]) -> tuple[Medium, ...]:
        """Finds each medium in a prompt: placeholders of one kind belong to its media in order."""
        specs = {each.spec.placeholder: each.spec for each in media}
        specs.setdefault(self.family.image.placeholder, self.family.image)
        left = {name: placeholders(ids, self.config, spec) for name, spec in specs.items()}
        wanted = {name: sum(len(m.places) for m in media if m.spec.placeholder == name) for name in specs}
        for name, visual in left.items():
            if len(visual) != wanted[name]:
                raise SampleError(f"{len(visual)} placeholders in the prompt for {wanted[name]} visual tokens")
        located = []
        for each in media:
            name, size = each.spec.placeholder, len(each.places)
            visual, left[name] = left[name][:size], left[name][size:]
            located.append(self._medium(visual, each))
        return tuple(located)

    def _medium(self, visual: Int[Tensor, " n"], processed: ProcessorOutput) -> Medium:
        places, spec = processed.places, processed.spec
        on_grid = places[:, 0] >= 0
        suffix = spec.frame_suffix_tokens if self.frame_text or not spec.frames_as_images else None
        markers = _markers(visual, places[:, 0], suffix, spec.frame_separator_tokens)
        return Medium(visual[on_grid], places[on_grid], visual[~on_grid], markers)


def _markers(
    visual: Int[Tensor, " n"], frame: Int[Tensor, " n"], suffix: int | None, separator: int
) -> tuple[tuple[Span, Span], ...]:
    """The text that belongs to each frame, out of what stands between consecutive frames.

    Args:
        visual: Sequence indices of the medium's visual tokens.
        frame: The frame of each; -1 outside the grid.
        suffix: How many text tokens after a frame belong to it, the rest being the next one's; None: all of them.
        separator: How many of the text tokens before a frame the first frame lacks.
    """
    frames = [visual[frame == number] for number in range(int(frame.max()) + 1)]
    starts, ends = [int(each[0]) for each in frames], [int(each[-1]) + 1 for each in frames]
    gaps = [start - end for start, end in zip(starts[1:], ends[:-1], strict=True)]
    after = [gap if suffix is None else min(suffix, gap) for gap in gaps]
    before = [gap - length for gap, length in zip(gaps, after, strict=True)]
    if gaps:  # the first frame is introduced, and the last one closed, like its neighbour
        before, after = [max(0, before[0] - separator), *before], [*after, after[-1]]
    else:  # a medium's only frame cannot lose all its tokens
        before = after = [0]
    return tuple(
        ((start - lead, start), (end, end + tail))
        for start, end, lead, tail in zip(starts, ends, before, after, strict=True)
    )
