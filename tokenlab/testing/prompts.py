"""Prompts for any checkpoint through its own processor and chat template."""

from typing import Any

import numpy as np
from transformers import BatchFeature

Item = str | np.ndarray
"""Text, an image `[h, w, 3]` or a video `[t, h, w, 3]`."""

FPS, STEP = 30.0, 15
"""Videos are every 15th frame of 30 a second."""


def process(processor: Any, *rows: list[Item], **more: Any) -> BatchFeature:
    """One prompt a row, padded on the left; frames are passed on as they are, with their true times."""
    images = [[item for item in row if _kind(item) == "image"] for row in rows]
    videos = [item for row in rows for item in row if _kind(item) == "video"]
    media: dict[str, Any] = {}
    if any(images):
        flat = [image for row in images for image in row]
        media["images"] = images if type(processor).__name__ == "SmolVLMProcessor" else flat
    if videos:
        metadata = [video_metadata(len(video)) for video in videos]
        media.update(videos=videos, video_metadata=metadata, do_sample_frames=False)
    return processor(
        text=[render_row(processor, row) for row in rows], **media, padding=True, return_tensors="pt", **more
    )


def render_row(processor: Any, row: list[Item]) -> str:
    """The chat template's text, with one placeholder word a medium."""
    content = [{"type": "text", "text": item} if isinstance(item, str) else {"type": _kind(item)} for item in row]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


def video_metadata(num_frames: int) -> dict[str, Any]:
    """What a processor is told about a video; made anew each time, for Qwen3's writes into it."""
    total = num_frames * STEP
    return {
        "total_num_frames": total,
        "fps": FPS,
        "duration": total / FPS,
        "frames_indices": list(range(0, total, STEP)),
    }


def noise(seed: int, *shape: int) -> np.ndarray:
    """Random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def _kind(item: Item) -> str:
    return "text" if isinstance(item, str) else "image" if item.ndim == 3 else "video"
