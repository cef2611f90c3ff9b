"""Families whose videos are images between words: pixel shuffle, tiles and tags."""

from pathlib import Path
from typing import Any

from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    Qwen2Config,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor

from tokenlab.testing.parts import TOWER, save_checkpoint, template, text_config, words

SIDE, PATCH = 48, 8
SQUARE: dict[str, Any] = {"height": SIDE, "width": SIDE}
TOKENS = (SIDE // PATCH // 2) ** 2


def save_internvl(folder: Path) -> None:
    """InternVL3's class: images in up to four tiles and a thumbnail, frames as one tile each."""
    tokens = words(start_image="<img>", end_image="</img>", context_image="<IMG_CONTEXT>", video="<video>")
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(image_size=SIDE, patch_size=PATCH, **TOWER),
        text_config=text_config(tokens, Qwen2Config),
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=TOKENS,
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=SQUARE, max_patches=4),
        tokenizer=tokens,
        video_processor=InternVLVideoProcessor(size=SQUARE),
        image_seq_length=TOKENS,
        chat_template=template("<IMG_CONTEXT>", "<video>"),
    )
    save_checkpoint(InternVLForConditionalGeneration(config), processor, folder)


def save_smolvlm(folder: Path) -> None:
    """SmolVLM2's class: images in tiles with tags of row and column, frames with the time of day before them."""
    tags = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    more = ("<fake_token_around_image>", "<global-img>", "<video>", "<end_of_utterance>", "<|im_start|>")
    tokens = words(*more, *tags)
    config = SmolVLMConfig(
        vision_config={"image_size": SIDE, "patch_size": PATCH, **TOWER},
        text_config=text_config(tokens),
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    sizes: dict[str, Any] = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**sizes),
        tokenizer=tokens,
        video_processor=SmolVLMVideoProcessor(**sizes),
        image_seq_len=TOKENS,
        chat_template=template("<image>", "<video>"),
    )
    save_checkpoint(SmolVLMForConditionalGeneration(config), processor, folder)
