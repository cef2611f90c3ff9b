"""What differs between families of multimodal LLMs, as a table of facts: a new family is one row.

The rows name parts of stock transformers classes; nothing is patched and no forward is copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tokenlab.compressors.base import TokenCompressor
from tokenlab.compressors.evidence import QuestionEmbeddings, TokenEmbeddings, TowerAttention
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.errors import UserError
from tokenlab.tensors import Evidence


@dataclass(frozen=True)
class Family:
    """The facts of one family, for the way it reads video.

    Attributes:
        name: The family's name in messages.
        modality: The kind of content a video's frames enter the prompt as, and the key of its encoder output.
        pixels: The processor output that the tower reads.
        placeholder: The config attribute with the id of the placeholder token.
        tower: Where the vision tower is in the model.
        attention: Where the tower's attention modules are, by layer; each has `config` for its kernel.
        has_cls: Whether row 0 of the tower's output is a class token.
        separators: Placeholders after a video's grid tokens, such as OneVision's newline.
        pool: The model's own method that brings tower patches `[t, p, d]` to the token grid; empty where none is.
        grid: Rows and columns of a frame's token grid, from the config.
        frame_text: The text before each frame, with `{number}` (from 1) or `{seconds}`; a checkpoint's config may
            carry its own under the same key.
    """

    name: str
    modality: Literal["image", "video"]
    pixels: str
    placeholder: str
    tower: str
    attention: str
    has_cls: bool
    separators: int
    pool: str
    grid: Callable[[PretrainedConfig], tuple[int, int]]
    frame_text: str = ""

    def placeholder_id(self, config: PretrainedConfig) -> int:
        """The token id that stands for a visual token in the prompt."""
        return getattr(config, self.placeholder)

    def tower_of(self, model: PreTrainedModel) -> nn.Module:
        """The vision tower."""
        return attrgetter(self.tower)(model)

    def attention_of(self, model: PreTrainedModel, layer: int) -> nn.Module:
        """The attention module of one layer of the tower, counted from the end if negative."""
        return attrgetter(self.attention)(model)[layer].self_attn

    def encode(self, model: PreTrainedModel, pixels: Tensor) -> Float[Tensor, "n d"]:
        """One medium through tower and projector: its visual tokens in prompt order, separators included."""
        if self.modality == "image":
            return torch.cat(list(model.model.get_image_features(pixels, return_dict=True).pooler_output))
        return model.model.get_video_features(pixels, return_dict=True).pooler_output[0]

    def encoder_output(self, features: list[Float[Tensor, "_ d"]]) -> Any:
        """Features of all media of a batch, in the form in which the family's forward reads them."""
        return features if self.modality == "image" else torch.cat(features)[None]

    def to_grid(self, model: PreTrainedModel, patches: Float[Tensor, "t p d"]) -> Float[Tensor, "t n d"]:
        """Brings one value per tower patch to the token grid, exactly as the tokens get there."""
        return getattr(model.model, self.pool)(patches) if self.pool else patches

    def lacks(self, need: Evidence, auxiliary: Collection[str] = ()) -> str | None:
        """Why this evidence cannot be had, also with the auxiliary encoders named; None where it can."""
        match need:
            case TowerAttention(query="cls") if not self.has_cls:
                return f"{self.name}'s vision tower has no [CLS] token"
            case TowerAttention() | TokenEmbeddings(space="llm") | QuestionEmbeddings(space="llm"):
                return None
            case TokenEmbeddings(space="clip") | QuestionEmbeddings(space="clip"):
                return (
                    None
                    if "clip" in auxiliary
                    else (
                        f"{self.name} checkpoints come without CLIP's text side; add model.mllm.auxiliary: "
                        "{clip: FOLDER_OR_ID}, or choose space: llm"
                    )
                )
        return f"{self.name} does not offer {need}"

    def refusal(self, compressor: TokenCompressor, auxiliary: Collection[str] = ()) -> str | None:
        """Why a compressor cannot run on this family; None where it can."""
        if compressor.stage not in SUPPORTED_STAGES:
            return f"{compressor.name} acts on {compressor.stage}, a stage the model side does not drive yet"
        reasons = sorted(reason for need in compressor.needs() if (reason := self.lacks(need, auxiliary)))
        return f"{compressor.name} cannot run on {self.name}: {reasons[0]}" if reasons else None

    def check(self, pipelines: dict[str, Pipeline], auxiliary: Collection[str] = ()) -> None:
        """Raises UserError for the first arm that cannot run here; needs no weights."""
        for arm, pipeline in pipelines.items():
            for compressor in pipeline.compressors:
                if reason := self.refusal(compressor, auxiliary):
                    raise UserError(f"model.pipelines.{arm}: {reason}")


SUPPORTED_STAGES = ("frames", "grid")


def _patch_rows(config: PretrainedConfig) -> int:
    return config.vision_config.image_size // config.vision_config.patch_size


def _square(config: PretrainedConfig) -> tuple[int, int]:
    side = _patch_rows(config)
    return side, side


def _square_halved(config: PretrainedConfig) -> tuple[int, int]:
    side = math.ceil(_patch_rows(config) / 2)
    return side, side


FAMILIES: dict[str, Family] = {
    "llava": Family(
        name="LLaVA-1.5",
        modality="image",
        pixels="pixel_values",
        placeholder="image_token_id",
        tower="model.vision_tower",
        attention="model.vision_tower.encoder.layers",
        has_cls=True,
        separators=0,
        pool="",
        grid=_square,
    ),
    "llava_onevision": Family(
        name="LLaVA-OneVision",
        modality="video",
        pixels="pixel_values_videos",
        placeholder="video_token_id",
        tower="model.vision_tower",
        attention="model.vision_tower.encoder.layers",
        has_cls=False,
        separators=1,
        pool="apply_pooling",
        grid=_square_halved,
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
