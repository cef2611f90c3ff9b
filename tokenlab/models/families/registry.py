"""All families, by the checkpoint's `model_type`."""

from __future__ import annotations

from transformers import PretrainedConfig

from tokenlab.errors import UserError
from tokenlab.models.families import llava, qwen, tiled
from tokenlab.models.families.base import Family

FAMILIES: dict[str, Family] = {**llava.FAMILIES, **qwen.FAMILIES, **tiled.FAMILIES}
"""By the checkpoint's `model_type`."""


def family_of(config: PretrainedConfig) -> Family:
    """Finds the facts for a checkpoint; raises UserError for a family that has no row."""
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    raise UserError(
        f"model.mllm.checkpoint: model type {config.model_type!r} is not supported; supported are "
        f"{', '.join(FAMILIES)}; CONTRIBUTING.md says how to add a family"
    )
