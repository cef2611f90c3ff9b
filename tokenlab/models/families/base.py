"""What differs between families of multimodal LLMs, as data: a family is one row, its file holds what the row names.

The rows name parts of stock transformers classes; nothing is patched and no forward is copied.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tokenlab.data.samples import Frames
from tokenlab.models.families.grids import Inputs, Places, Tiles, ToGrid, patches

Kind = Literal["image", "video"]

FrameItem = dict[str, str]
"""One item of a chat message's content: a medium, or text."""


def as_rows(features: Float[Tensor, "*_ d"] | Sequence[Float[Tensor, "*_ d"]]) -> Float[Tensor, "n d"]:
    """Joins a medium's tokens in prompt order, whatever nesting its encoder gives them."""
    if isinstance(features, Tensor):
        return features.flatten(0, -2)
    return torch.cat([each.flatten(0, -2) for each in features])


@dataclass(frozen=True)
class MediaSpec:
    """How a family reads one kind of medium.

    Attributes:
        content: What stands for the medium in chat messages: one item of this kind, or one a frame.
        frames_as_images: Whether every frame is a chat item of its own.
        encoder: `get_{encoder}_features` encodes the medium, and its output goes back under this key.
        placeholder: The config attribute with the id of the token that stands for a visual token.
        places: Where the medium's tokens lie on the token grid, from config and processor output.
        split: What of a batch's processor output belongs to the media, tiles or frames of given numbers.
        batched_features: Whether the model's forward wants features as one tensor, not as a list.
        to_grid: Brings what one tower layer says of its patches to the token grid, as the tokens get there.
        projector_to_grid: Brings what a token-wise projector reads to the token grid.
        llm_inputs: Names in the processor's output that the LLM must be told besides, one row a medium.
        token_types: Whether the LLM is told which tokens of a prompt are of which kind.
        frame_suffix_tokens: Text tokens directly after a frame's visual tokens that belong to this frame (e.g. Qwen3's
            `<|vision_end|>`). None: everything up to the next frame.
        frame_separator_tokens: Text tokens between two frames that the first frame does not have before it
            (InternVL's line break).
        nested_images: Whether the processor wants the images of a prompt in a list of their own.
        blocks: Where the blocks of the tower are, if they are not the family's.
        min_frames: The fewest frames that the processor takes; the last frame of a shorter video is shown again.
        tiles: Where an image is read in tiles: from the places of its grid tokens, the number of each one's tile, as
            the tower reads them, and the number of the tile that shows the whole image. None: there are no tiles.
        pixel_change: How far the pixels that each token shows are from those in its place a step before, channel by
            channel, in the tower's own scale; infinite in the first step. None: which pixels they are is not known.
        last_tile_token: The processor's name for the token beside an image's last tile, where frames stand as images
            too. Empty: an image is one tile.
    """

    content: Kind
    frames_as_images: bool
    encoder: Kind
    placeholder: str
    places: Callable[[PretrainedConfig, Inputs], Places]
    split: Callable[[PretrainedConfig, MediaSpec, Inputs, slice], Inputs]
    batched_features: bool = False
    to_grid: ToGrid = patches
    projector_to_grid: ToGrid = patches
    llm_inputs: tuple[str, ...] = ()
    token_types: bool = False
    frame_suffix_tokens: int | None = 0
    frame_separator_tokens: int = 0
    nested_images: bool = False
    blocks: str = ""
    min_frames: int = 1
    tiles: Callable[[PretrainedConfig, Inputs, Places], Tiles | None] | None = None
    pixel_change: Callable[[PretrainedConfig, Inputs], Float[Tensor, "n channels"]] | None = None
    last_tile_token: str = ""

    def encode(self, model: PreTrainedModel, inputs: Inputs) -> Any:
        """Runs the stock encoder on one medium, given what the encoder asks for by name."""
        method = getattr(model.model, f"get_{self.encoder}_features")
        arguments = {name: inputs[name] for name in inspect.signature(method).parameters if name in inputs}
        return method(**arguments, return_dict=True)

    def encoder_output(
        self, like: Any, features: Sequence[Float[Tensor, "_ d"]], deepstack: Sequence[Sequence[Float[Tensor, "_ d"]]]
    ) -> Any:
        """Makes one encoder output for a batch of media, in prompt order.

        Args:
            like: A stock output of this encoder.
            features: Each medium's rows, one a placeholder.
            deepstack: Each medium's rows for every LLM layer that adds some.
        """
        rows = torch.cat(list(features))
        joined: dict[str, Any] = {"pooler_output": rows[None] if self.batched_features else [rows]}
        if getattr(like, "deepstack_features", None) is not None:
            joined["deepstack_features"] = [tuple(layer) for layer in zip(*deepstack, strict=True)]
        return type(like)(**joined)

    def chat_items(self, frames: Frames, frame_text: str) -> list[FrameItem]:
        """The medium as content of a chat message."""
        if not self.frames_as_images:
            return [{"type": self.content}]
        items = ([{"type": "text", "text": text}, {"type": "image"}] for text in frame_texts(frames, frame_text))
        return [item for item in chain.from_iterable(items) if item.get("text") != ""]


def frame_texts(frames: Frames, frame_text: str) -> list[str]:
    """The text before each frame, from the family's template with `{number}` (from 1) or `{seconds}`."""
    times = zip(frames.numbers, frames.seconds, strict=True)
    return [frame_text.format(number=number + 1, seconds=seconds) for number, seconds in times]


@dataclass(frozen=True)
class Family:
    """The facts of one family.

    Attributes:
        name: The family's name in messages.
        image: How the family reads an image.
        video: How the family reads a video's frames; None where it cannot.
        tower: Where the vision tower is in the model.
        blocks: Where the tower's blocks are.
        attention: What a block calls its attention module.
        norm: What a block calls its norm between attention and MLP, where frames may lose tokens inside the tower;
            empty where code behind the tower counts a frame's patches.
        has_cls: Whether row 0 of the tower's output is a class token.
        siglip: Whether the tower is SigLIP's, frame by frame, so that a pooling head fits behind it.
        projector: Where the projector is, if it makes every grid token by itself out of what it reads; empty where
            tokens are made of several patches in or behind it.
        mrope: Whether positions have three axes.
        deepstack: Whether features of further tower layers join the tokens inside the LLM.
        after_attention: Whether LLM layers add attention and MLP one after the other behind one norm each, so that
            tokens can go between the two, and queries and keys can be made apart from the layer.
        frame_text: The text before each frame, with `{number}` (from 1) or `{seconds}`; a checkpoint's config may
            carry its own under the same key.
        native_resolution: Whether the tower reads frames at their own size, as patches packed into one sequence.
        follows_size: Whether smaller pictures are fewer tokens; where the resolution is not native, images alone, which
            are cut into fewer tiles.
        encode_shapes: Encodes inputs without values, where the stock encoder branches on the values of pixels.
        tower_parts: The tower's modules, below the tower, that `encode_shapes` calls.
    """

    name: str
    image: MediaSpec
    video: MediaSpec | None
    tower: str
    blocks: str
    has_cls: bool = False
    siglip: bool = False
    projector: str = ""
    mrope: bool = False
    deepstack: bool = False
    after_attention: bool = True
    attention: str = "self_attn"
    norm: str = ""
    frame_text: str = ""
    native_resolution: bool = False
    follows_size: bool = False
    encode_shapes: Callable[[PreTrainedModel, Inputs], Any] | None = None
    tower_parts: tuple[str, ...] = ()

    @property
    def frames_share_placeholder(self) -> bool:
        """Whether a video's frames stand in the prompt as images do, so that nothing tells the two apart."""
        return self.video is not None and self.video.placeholder == self.image.placeholder

    def spec(self, frames: Frames) -> MediaSpec | None:
        """How the family reads this medium; None where it cannot."""
        return self.image if frames.is_image else self.video

    def tower_of(self, model: PreTrainedModel) -> nn.Module:
        """The vision tower."""
        return attrgetter(self.tower)(model)

    def projector_of(self, model: PreTrainedModel) -> nn.Module | None:
        """The projector, if it takes tokens one by one."""
        return attrgetter(self.projector)(model) if self.projector else None

    def blocks_of(self, model: PreTrainedModel, spec: MediaSpec) -> nn.ModuleList:
        """The blocks of the tower that reads this kind of medium."""
        return attrgetter(spec.blocks or self.blocks)(model)

    def attention_of(self, model: PreTrainedModel, spec: MediaSpec, layer: int) -> nn.Module:
        """The attention module of one layer of that tower, counted from the end if negative."""
        return getattr(self.blocks_of(model, spec)[layer], self.attention)


def placeholders(ids: Int[Tensor, " s"], config: PretrainedConfig, spec: MediaSpec) -> Int[Tensor, " n"]:
    """Where the placeholders of a kind of medium stand in a prompt."""
    return (ids == getattr(config, spec.placeholder)).nonzero()[:, 0]
