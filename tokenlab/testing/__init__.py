"""Tiny random checkpoints of every family, with real processors: built from configs, no download.

Weights are drawn wide, so that the answers change when tokens go.
"""

from collections.abc import Callable
from pathlib import Path

from tokenlab.testing.llava import (
    save_llava,
    save_llava_next,
    save_llava_next_video,
    save_llava_onevision,
    save_video_llava,
)
from tokenlab.testing.qwen import save_qwen2_5_vl, save_qwen2_vl, save_qwen3_vl
from tokenlab.testing.tiled import save_internvl, save_smolvlm

ANSWER_TOKENS = 6

SAVERS: dict[str, Callable[[Path], None]] = {
    "llava": save_llava,
    "llava_next": save_llava_next,
    "llava_onevision": save_llava_onevision,
    "llava_next_video": save_llava_next_video,
    "video_llava": save_video_llava,
    "qwen2_vl": save_qwen2_vl,
    "qwen2_5_vl": save_qwen2_5_vl,
    "qwen3_vl": save_qwen3_vl,
    "internvl": save_internvl,
    "smolvlm": save_smolvlm,
}
"""By the checkpoint's `model_type`."""
