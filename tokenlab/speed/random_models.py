"""Models of real size with random weights, and real processors for them: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    GenerationConfig,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.initialization import no_init_weights
from transformers.models.llava_onevision.image_processing_llava_onevision import LlavaOnevisionImageProcessor

from tokenlab.errors import UserError
from tokenlab.report.console import followed
from tokenlab.testing.parts import template, words
from tokenlab.testing.qwen import SPECIAL

NO_LIMIT = {"shortest_edge": 1, "longest_edge": 2**40}
"""Of pixels: Qwen's frames are read at the size that is asked for."""

ANY_LENGTH = 2**31  # it is the bench that refuses prompts beyond the model's context


def random_model(config: PretrainedConfig, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Made on the device, without transformers' slow initialisation; a matrix keeps the scale of what goes in."""
    with torch.device(device), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in followed(list(model.named_parameters()), "weights"):
        if weight.ndim > 1:
            weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
        else:
            weight.fill_(0 if name.endswith("bias") else 1)
    model.generation_config = GenerationConfig(pad_token_id=0)  # no end of sequence: no answer ends early
    return model


def real_processor(config: PretrainedConfig) -> Any:
    """A processor of the model's class, at the size that its tower reads; the config learns the tests' words.

    Raises:
        UserError: For a family that none is made for here, or a vocabulary too small for the words.
    """
    if config.model_type not in PROCESSORS:
        known = ", ".join(PROCESSORS)
        raise UserError(f"--checkpoint: model type {config.model_type!r} is not measured here; measured are {known}")
    tokens, room = words("<video>", *SPECIAL), config.get_text_config().vocab_size
    if len(tokens) > room:
        raise UserError(f"--checkpoint: a vocabulary of {room} has no room for the {len(tokens)} words of the prompt")
    tokens.model_max_length = ANY_LENGTH
    placeholders = SPECIAL if config.model_type.startswith("qwen") else ("<image>", "<video>")
    for kind, word in zip(("image", "video", "vision_start", "vision_end"), placeholders, strict=False):
        if hasattr(config, f"{kind}_token_id"):
            setattr(config, f"{kind}_token_id", tokens.convert_tokens_to_ids(word))
    return PROCESSORS[config.model_type](config, tokens)


def _llava(config: PretrainedConfig, tokens: Any) -> LlavaProcessor:
    side = config.vision_config.image_size
    return LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokens,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )


def _llava_onevision(config: PretrainedConfig, tokens: Any) -> LlavaOnevisionProcessor:
    vision = config.vision_config
    size = {"height": vision.image_size, "width": vision.image_size}
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=config.image_grid_pinpoints),
        tokens,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=template("<image>", "<video>"),
    )


def _qwen(kind: type, videos: type) -> Callable[[PretrainedConfig, Any], Any]:
    image, video, start, end = SPECIAL

    def build(config: PretrainedConfig, tokens: Any) -> Any:
        vision = config.vision_config
        patches = {
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.spatial_merge_size,
        }
        return kind(
            Qwen2VLImageProcessor(**patches, size=NO_LIMIT),
            tokens,
            videos(**patches, size=NO_LIMIT, cap_pixels_per_frame=False),
            chat_template=template(f"{start}{image}{end}", f"{start}{video}{end}"),
        )

    return build


PROCESSORS: dict[str, Callable[[PretrainedConfig, Any], Any]] = {
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "qwen2_5_vl": _qwen(Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
    "qwen3_vl": _qwen(Qwen3VLProcessor, Qwen3VLVideoProcessor),
}
"""By `model_type`."""


def shorten(config: PretrainedConfig, layers: int) -> None:
    """Leaves so many layers of the LLM and of the tower; those that Qwen names by number are among them."""
    text, vision = config.get_text_config(), config.vision_config
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    setattr(vision, "depth" if hasattr(vision, "depth") else "num_hidden_layers", layers)
    if hasattr(vision, "fullatt_block_indexes"):
        vision.fullatt_block_indexes = [layers - 1]
    if hasattr(vision, "deepstack_visual_indexes"):
        vision.deepstack_visual_indexes = list(range(min(layers, len(vision.deepstack_visual_indexes))))
