"""What a checkpoint's processor made of one medium, and how it stands in a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from tokenlab.data.samples import Frames
from tokenlab.models.families.base import FrameItem, MediaSpec
from tokenlab.models.families.grids import Inputs, Places


@dataclass(frozen=True)
class ProcessorOutput:
    """What the checkpoint's processor made of one medium, whatever is asked about it.

    Attributes:
        spec: How the family reads the medium.
        inputs: The processor's output, as the tower and the LLM read it.
        places: Where the medium's tokens lie on its token grid.
        pixel_std: By channel, what one unit of the tower's pixels is of the way from black to white.
    """

    spec: MediaSpec
    inputs: Inputs
    places: Places
    pixel_std: tuple[float, ...]

    @property
    def passes(self) -> int:
        """How often the tower runs for the medium: once a frame, a tile, or a few frames taken together."""
        for name, value in self.inputs.items():
            if name.endswith("grid_thw"):
                return int(value[0, 0])
        (pixels,) = (value for name, value in self.inputs.items() if name.startswith("pixel_values"))
        return pixels.flatten(0, -4).shape[0]

    @cached_property
    def frame_shapes(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each frame of the token grid."""
        frame, *place = self.places[self.places[:, 0] >= 0].T
        frames = int(frame.max()) + 1
        sides = [torch.zeros(frames, dtype=torch.long).scatter_reduce(0, frame, each + 1, "amax") for each in place]
        return tuple(zip(*(side.tolist() for side in sides), strict=True))

    @property
    def in_tiles(self) -> bool:
        """Whether the medium is an image whose tiles lie on the grid one after the other."""
        return bool(self.spec.last_tile_token) and self.spec.content == "image" and self.passes > 1


@dataclass(frozen=True)
class PromptMedium(ProcessorOutput):
    """A medium that is still to be written into prompts.

    Attributes:
        frames: The decoded frames.
        items: The content of a chat message that stands for them.
        replacements: What the medium's placeholder words in a prompt expand to.
    """

    frames: Frames
    items: list[FrameItem]
    replacements: list[str]


def pixel_std(processor: Any, spec: MediaSpec) -> tuple[float, ...]:
    """By which the checkpoint's processor divides each channel of pixels."""
    return tuple(getattr(processor, f"{spec.content}_processor").image_std)


def render_chat(processor: Any, content: Sequence[FrameItem]) -> str:
    """Writes the chat template's text for one user message, with a placeholder word an image or video."""
    messages = [{"role": "user", "content": list(content)}]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
