"""What differs between families of multimodal LLMs, as a table of facts: a new family is one row.

The rows name parts of stock transformers classes; nothing is patched and no forward is copied.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tokenlab.compressors.base import CacheReduction, GridReduction, TokenCompressor, TowerReduction
from tokenlab.compressors.evidence import (
    FrameScores,
    LastAttention,
    PoolingAttention,
    ProjectorInput,
    QuestionEmbeddings,
    TokenEmbeddings,
    TowerAttention,
    TowerKeys,
)
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.errors import UserError
from tokenlab.models.grids import (
    Inputs,
    Places,
    ToGrid,
    after_cls,
    any_resolution,
    merged,
    merged_patches,
    merged_windows,
    mosaic,
    patches,
    pooled,
    pooled_frames,
    pooled_video,
    resampled,
    shuffled,
    square,
    tiles,
    with_cls,
)
from tokenlab.tensors import Evidence

Kind = Literal["image", "video"]


def as_rows(features: Any) -> Float[Tensor, "n d"]:
    """A medium's tokens in prompt order, whatever nesting its encoder gives them."""
    if isinstance(features, Tensor):
        return features.flatten(0, -2)
    return torch.cat([each.flatten(0, -2) for each in features])


@dataclass(frozen=True)
class Reading:
    """How a family reads one kind of medium.

    Attributes:
        content: What stands for it in chat messages: one item of this kind, or one a frame.
        item_per_frame: Whether every frame is an item of its own.
        encoder: `get_{encoder}_features` encodes it, and its output goes back under this key.
        placeholder: The config attribute with the id of the token that stands for a visual token.
        places: Where its tokens lie on the token grid, from config and processor output.
        takes_tensor: Whether the forward wants features as one tensor, not as a list.
        to_grid: Brings what one tower layer says of its patches to the token grid, as the tokens get there.
        projector_to_grid: The same for what a token-wise projector reads.
        extras: What the LLM must be told besides, from the processor's output, one row a medium.
        closing: How many text tokens after a frame belong to it, where a medium's frames stand apart; None: all.
        joint: How many of those before a frame only follow another frame; the first one lacks them.
        nested: Whether the processor wants the images of a prompt in a list of their own.
        blocks: Where the blocks of the tower are, if it is not the family's.
        fewest_frames: Shorter videos are refused by the processor; their last frame is shown again.
        last_tag: The processor's name for the token beside an image's last tile, where frames stand as images too;
            empty: an image is one tile.
    """

    content: Kind
    item_per_frame: bool
    encoder: Kind
    placeholder: str
    places: Callable[[PretrainedConfig, Inputs], Places]
    takes_tensor: bool = False
    to_grid: ToGrid = patches
    projector_to_grid: ToGrid = patches
    extras: tuple[str, ...] = ()
    closing: int | None = 0
    joint: int = 0
    nested: bool = False
    blocks: str = ""
    fewest_frames: int = 1
    last_tag: str = ""

    def encode(self, model: PreTrainedModel, inputs: Inputs) -> Any:
        """The stock encoder's output for one medium, given what it asks for by name."""
        method = getattr(model.model, f"get_{self.encoder}_features")
        asked = {name: inputs[name] for name in inspect.signature(method).parameters if name in inputs}
        return method(**asked, return_dict=True)

    def batch(self, outputs: Sequence[Any]) -> Any:
        """One encoder output for a batch of media: what counts to every family is the order of the tokens."""
        rows = torch.cat([as_rows(output.pooler_output) for output in outputs])
        joined: dict[str, Any] = {"pooler_output": rows[None] if self.takes_tensor else [rows]}
        if getattr(outputs[0], "deepstack_features", None) is not None:
            layers = zip(*(output.deepstack_features for output in outputs), strict=True)
            joined["deepstack_features"] = [tuple(chain.from_iterable(layer)) for layer in layers]
        return type(outputs[0])(**joined)


@dataclass(frozen=True)
class Family:
    """The facts of one family.

    Attributes:
        name: The family's name in messages.
        image: How it reads an image.
        video: How it reads a video's frames; None where it cannot.
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
        frame_text: The text before each frame, with `{number}` (from 1) or `{seconds}`; a checkpoint's config may
            carry its own under the same key.
    """

    name: str
    image: Reading
    video: Reading | None
    tower: str
    blocks: str
    has_cls: bool = False
    siglip: bool = False
    projector: str = ""
    mrope: bool = False
    deepstack: bool = False
    attention: str = "self_attn"
    norm: str = ""
    frame_text: str = ""

    def tower_of(self, model: PreTrainedModel) -> nn.Module:
        """The vision tower."""
        return attrgetter(self.tower)(model)

    def projector_of(self, model: PreTrainedModel) -> nn.Module | None:
        """The projector, if it takes tokens one by one."""
        return attrgetter(self.projector)(model) if self.projector else None

    def blocks_of(self, model: PreTrainedModel, reading: Reading) -> nn.ModuleList:
        """The blocks of the tower that reads this."""
        return attrgetter(reading.blocks or self.blocks)(model)

    def attention_of(self, model: PreTrainedModel, reading: Reading, layer: int) -> nn.Module:
        """The attention module of one layer of the tower that reads this, counted from the end if negative."""
        return getattr(self.blocks_of(model, reading)[layer], self.attention)

    def lacks(self, need: Evidence, auxiliary: Collection[str] = ()) -> str | None:
        """Why this evidence cannot be had, also with the auxiliary encoders named; None where it can."""
        match need:
            case TowerAttention(query="cls") if not self.has_cls:
                return f"{self.name}'s vision tower has no [CLS] token"
            case TowerAttention() | TowerKeys() | TokenEmbeddings(space="llm") | QuestionEmbeddings(space="llm"):
                return None
            case LastAttention() | ProjectorInput():  # the latter where there is one; `remark` says where not
                return None
            case PoolingAttention() if not self.siglip:
                return f"{self.name}'s vision tower is no SigLIP, which has a pooling head"
            case PoolingAttention() if "siglip" not in auxiliary:
                return (
                    f"{self.name} checkpoints come without SigLIP's pooling head; add model.mllm.auxiliary: "
                    "{siglip: FOLDER_OR_ID}, or choose query: cls"
                )
            case PoolingAttention():
                return None
            case FrameScores(space="llm"):
                return f"{self.name} puts no whole frames into its LLM's space; choose space: clip"
            case TokenEmbeddings() | QuestionEmbeddings() | FrameScores():
                if "clip" in auxiliary:
                    return None
                return (
                    f"{self.name} checkpoints come without CLIP's text side; add model.mllm.auxiliary: "
                    "{clip: FOLDER_OR_ID}, or choose space: llm"
                )
        return f"{self.name} does not offer {need}"

    def refusal(self, compressor: TokenCompressor, auxiliary: Collection[str] = (), kernel: str = "sdpa") -> str | None:
        """Why a compressor cannot run on this family, with this attention kernel; None where it can."""
        reasons = sorted(reason for need in compressor.needs() if (reason := self.lacks(need, auxiliary)))
        if isinstance(compressor, TowerReduction) and not self.norm:
            reasons.append("what stands behind its vision tower counts the patches of every frame")
        if kernel not in MASKED_KERNELS and _changes_attention(compressor):
            reasons.append(f"{kernel} takes no mask, through which it decides what is attended to; use sdpa or eager")
        return f"{compressor.name} cannot run on {self.name}: {reasons[0]}" if reasons else None

    def needs_auxiliary(self, pipeline: Pipeline) -> bool:
        """Whether it only runs with another encoder beside the model."""
        return any(self.lacks(need) for need in pipeline.needs())

    def remark(self, compressor: TokenCompressor) -> str:
        """How a compressor runs here, where it is not quite as its authors have it; else nothing."""
        if isinstance(compressor, GridReduction) and compressor.merges_before_projector and not self.projector:
            return "merges on the token grid: the projector does not take tokens one by one"
        return ""

    def check(self, pipelines: dict[str, Pipeline], auxiliary: Collection[str] = (), kernel: str = "sdpa") -> None:
        """Raises UserError for the first arm that cannot run here; needs no weights."""
        for arm, pipeline in pipelines.items():
            for compressor in pipeline.compressors:
                if reason := self.refusal(compressor, auxiliary, kernel):
                    raise UserError(f"model.pipelines.{arm}: {reason}")


MASKED_KERNELS = ("sdpa", "eager")
"""Attention kernels that take any mask."""


def _changes_attention(compressor: TokenCompressor) -> bool:
    """Whether a method acts on what the kernel computes, not only on what it is given."""
    return isinstance(compressor, CacheReduction) or getattr(compressor, "proportional_attention", False)


def _qwen(
    name: str, to_grid: ToGrid = merged, video_extras: tuple[str, ...] = (), deepstack: bool = False, **video: Any
) -> Family:
    """Qwen's way: frames of any size, patches packed into one sequence, squares of patches merged into tokens."""
    read: dict[str, Any] = {"item_per_frame": False, "places": merged_patches, "to_grid": to_grid}
    video |= {"extras": ("video_grid_thw", *video_extras), **read}
    return Family(
        name=name,
        image=Reading("image", encoder="image", placeholder="image_token_id", extras=("image_grid_thw",), **read),
        video=Reading("video", encoder="video", placeholder="video_token_id", **video),
        tower="model.visual",
        blocks="model.visual.blocks",
        attention="attn",
        mrope=True,
        deepstack=deepstack,
    )


_MOSAIC = Reading("image", False, "image", "image_token_id", any_resolution, to_grid=mosaic, projector_to_grid=mosaic)
"""LLaVA-NeXT's way with images, which others took over."""

FAMILIES: dict[str, Family] = {
    "llava": Family(
        name="LLaVA-1.5",
        image=Reading("image", False, "image", "image_token_id", square, to_grid=after_cls),
        video=Reading("image", True, "image", "image_token_id", square, to_grid=after_cls),
        projector="model.multi_modal_projector",
        tower="model.vision_tower",
        blocks="model.vision_tower.encoder.layers",
        norm="layer_norm2",
        has_cls=True,
    ),
    "llava_next": Family(
        name="LLaVA-NeXT",
        image=_MOSAIC,
        video=None,
        projector="model.multi_modal_projector",
        tower="model.vision_tower",
        blocks="model.vision_tower.encoder.layers",
        has_cls=True,
    ),
    "llava_next_video": Family(
        name="LLaVA-NeXT-Video",
        image=_MOSAIC,
        video=Reading("video", False, "video", "video_token_id", pooled_frames, to_grid=resampled),
        projector="model.multi_modal_projector",
        tower="model.vision_tower",
        blocks="model.vision_tower.encoder.layers",
        has_cls=True,
    ),
    "llava_onevision": Family(
        name="LLaVA-OneVision",
        image=_MOSAIC,
        video=Reading("video", False, "video", "video_token_id", pooled_video, True, pooled),
        tower="model.vision_tower",
        blocks="model.vision_tower.encoder.layers",
        siglip=True,
    ),
    "video_llava": Family(
        name="Video-LLaVA",
        image=Reading(
            "image",
            False,
            "image",
            "image_token_id",
            square,
            takes_tensor=True,
            to_grid=after_cls,
            blocks="model.image_tower.encoder.layers",
        ),
        video=Reading(
            "video",
            False,
            "video",
            "video_token_id",
            with_cls,
            takes_tensor=True,
            to_grid=after_cls,
            projector_to_grid=after_cls,
        ),
        projector="model.multi_modal_projector",
        tower="model.video_tower",
        blocks="model.video_tower.encoder.layers",
        norm="layer_norm2",
        has_cls=True,
    ),
    "qwen2_vl": _qwen("Qwen2-VL"),
    "qwen2_5_vl": _qwen("Qwen2.5-VL", merged_windows, video_extras=("second_per_grid_ts",)),
    "qwen3_vl": _qwen("Qwen3-VL", deepstack=True, fewest_frames=2, closing=1),
    "internvl": Family(
        name="InternVL3",
        image=Reading(
            "image",
            False,
            "image",
            "image_token_id",
            tiles,
            takes_tensor=True,
            to_grid=shuffled,
            last_tag="end_image_token",
        ),
        video=Reading(
            "video", False, "image", "image_token_id", tiles, takes_tensor=True, to_grid=shuffled, closing=1, joint=1
        ),
        tower="model.vision_tower",
        blocks="model.vision_tower.encoder.layer",
        attention="attention",
        has_cls=True,
    ),
    "smolvlm": Family(
        name="SmolVLM2",
        image=Reading(
            "image",
            False,
            "image",
            "image_token_id",
            tiles,
            to_grid=shuffled,
            nested=True,
            closing=1,
            last_tag="global_image_token",
        ),
        video=Reading("video", False, "image", "image_token_id", tiles, to_grid=shuffled, closing=1),
        tower="model.vision_model",
        blocks="model.vision_model.encoder.layers",
        siglip=True,
    ),
}
"""By the checkpoint's `model_type`."""


def family_of(config: PretrainedConfig) -> Family:
    """The facts for a checkpoint; raises UserError for a family that has no row."""
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    raise UserError(
        f"model.mllm.checkpoint: model type {config.model_type!r} is not supported; supported are "
        f"{', '.join(FAMILIES)}; CONTRIBUTING.md says how to add a family"
    )
