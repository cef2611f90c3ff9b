"""Qwen-VL checkpoints: a grid that follows the frame's size, M-RoPE, windowed attention (2.5), DeepStack (3)."""

from pathlib import Path
from typing import Any

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tokenlab.testing.parts import TEXT, save_checkpoint, template, text_config, words

PATCHES: dict[str, Any] = {"patch_size": 8, "temporal_patch_size": 2}
SIZE: dict[str, Any] = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
CLIP_SIZE: dict[str, Any] = {"shortest_edge": 2 * 32 * 32, "longest_edge": 6 * 48 * 48}
"""Qwen3's limit is on the whole clip: the longer, the smaller its frames."""
VISION: dict[str, Any] = {"num_heads": 4, "depth": 3, "spatial_merge_size": 2, **PATCHES}
SPECIAL = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def save_qwen2_vl(folder: Path) -> None:
    """Full attention in each pair of frames."""
    vision = {**VISION, "embed_dim": 32, "mlp_ratio": 2, "hidden_size": TEXT["hidden_size"]}
    _save(folder, (Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor), vision)


def save_qwen2_5_vl(folder: Path) -> None:
    """Attention in windows of 2 x 2 tokens, but for one block; positions in time follow the seconds."""
    vision = {**_vision(), "window_size": 32, "fullatt_block_indexes": [1], "tokens_per_second": 2}
    _save(folder, (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor), vision)


def save_qwen3_vl(folder: Path) -> None:
    """Timestamps between the frames' runs of tokens; two layers of the tower feed the LLM's first two layers."""
    vision = {**_vision(), "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    classes = (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor)
    clips = Qwen3VLVideoProcessor(**PATCHES, size=CLIP_SIZE, cap_pixels_per_frame=False)
    _save(folder, classes, vision, clips, num_hidden_layers=4, head_dim=12, mrope_interleaved=True)


def _vision() -> dict[str, Any]:
    return {**VISION, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": TEXT["hidden_size"]}


def _save(
    folder: Path,
    classes: tuple[type, type, type],
    vision: dict[str, Any],
    clips: Any = None,
    mrope_interleaved: bool = False,
    **text: Any,
) -> None:
    config_class, model_class, processor_class = classes
    tokens = words(*SPECIAL)
    image, video, start, end = SPECIAL
    rope: dict[str, Any] = {"rope_type": "default", "mrope_section": [2, 2, 2]}
    if mrope_interleaved:
        rope["mrope_interleaved"] = True
    text_class = config_class.sub_configs_defaults["text_config"].config_class
    ids = [tokens.convert_tokens_to_ids(word) for word in SPECIAL]
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = config_class(
        vision_config=vision,
        text_config=text_config(tokens, text_class, rope_parameters=rope, **text).to_dict(),
        **dict(zip(names, ids, strict=True)),
    )
    processor = processor_class(
        image_processor=Qwen2VLImageProcessor(**PATCHES, size=SIZE),
        tokenizer=tokens,
        video_processor=clips or Qwen2VLVideoProcessor(**PATCHES, size=SIZE, cap_pixels_per_frame=False),
        chat_template=template(f"{start}{image}{end}", f"{start}{video}{end}"),
    )
    save_checkpoint(model_class(config), processor, folder, width=4.0 if mrope_interleaved else 2.0)
