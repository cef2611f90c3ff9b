"""LLaVA's family: square towers whose patches become tokens one to one, pooled, or laid out as a mosaic."""

from pathlib import Path
from typing import Any

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
    SiglipVisionConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaProcessor,
    VideoLlavaVideoProcessor,
)
from transformers.models.llava_onevision.image_processing_llava_onevision import LlavaOnevisionImageProcessor
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

from tokenlab.shapes.network import llava_config, llava_processor, tokenizer
from tokenlab.testing.parts import TEXT, TOWER, save_checkpoint, template, text_config, words

SIDE, PATCH = 48, 8
SQUARE: dict[str, Any] = {"height": SIDE, "width": SIDE}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def save_llava(folder: Path) -> None:
    """LLaVA-1.5's class: CLIP with [CLS], frames as images with the world's timestamps between them."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=64, patch_size=16, **TOWER),
        text_config=LlamaConfig(vocab_size=len(tokenizer()), **TEXT),
        image_token_index=llava_config().image_token_id,
        vision_feature_layer=-2,
    )
    config.frame_text = "f{number}"
    processor = llava_processor()
    processor.patch_size = 16
    save_checkpoint(LlavaForConditionalGeneration(config), processor, folder)


def save_llava_onevision(folder: Path) -> None:
    """LLaVA-OneVision's class: SigLIP without [CLS], pooled frames and one newline in a single run."""
    tokens: Any = tokenizer()
    pinpoints = [[40, 40], [40, 80], [80, 40]]
    tokens.add_special_tokens({"additional_special_tokens": ["<video>"]})
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(image_size=40, patch_size=8, **TOWER),
        text_config=Qwen2Config(vocab_size=len(tokens), **TEXT),
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        video_token_index=tokens.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=pinpoints,
    )
    size = {"height": 40, "width": 40}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints),
        tokenizer=tokens,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=25,
        vision_feature_select_strategy="full",
        chat_template=template("<image>", "<video>", start=""),
    )
    save_checkpoint(LlavaOnevisionForConditionalGeneration(config), processor, folder)


def save_llava_next(folder: Path) -> None:
    """LLaVA-NeXT's class: images of any resolution as a small picture and a mosaic of tiles."""
    config = LlavaNextConfig(**_shared(words()), image_grid_pinpoints=PINPOINTS)
    processor = LlavaNextProcessor(
        image_processor=_tiles(),
        tokenizer=words(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )
    save_checkpoint(LlavaNextForConditionalGeneration(config), processor, folder)


def save_llava_next_video(folder: Path) -> None:
    """LLaVA-NeXT-Video's class: the same for images, pooled frames in one run for videos."""
    tokens = words("<video>")
    config = LlavaNextVideoConfig(**_shared(tokens), image_grid_pinpoints=PINPOINTS)
    processor = LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        image_processor=_tiles(),
        tokenizer=tokens,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>", "<video>"),
    )
    save_checkpoint(LlavaNextVideoForConditionalGeneration(config), processor, folder)


def save_video_llava(folder: Path) -> None:
    """Video-LLaVA's class: one tower for images and one for videos, whose frames keep their [CLS]."""
    tokens = words("<video>")
    processor = VideoLlavaProcessor(
        image_processor=VideoLlavaImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        video_processor=VideoLlavaVideoProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        tokenizer=tokens,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>", "<video>"),
    )
    save_checkpoint(VideoLlavaForConditionalGeneration(VideoLlavaConfig(**_shared(tokens))), processor, folder)


def _tiles() -> LlavaNextImageProcessor:
    return LlavaNextImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS)


def _shared(tokens: Any) -> dict[str, Any]:
    """What the configs of these three classes have in common."""
    placeholders = {f"{kind}_token_index": tokens.convert_tokens_to_ids(f"<{kind}>") for kind in ("image", "video")}
    return {
        "vision_config": CLIPVisionConfig(image_size=SIDE, patch_size=PATCH, **TOWER),
        "text_config": text_config(tokens),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        **placeholders,
    }
