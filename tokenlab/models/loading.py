"""Loading checkpoints: config first, so that impossible runs stop early; safetensors only; network only for hub ids."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PretrainedConfig, PreTrainedModel

import tokenlab
from tokenlab.errors import UserError
from tokenlab.models.settings import MLLM

EMBEDDED = {"shapes": Path(tokenlab.__file__).parent / "shapes" / "checkpoint" / "llava"}
"""Checkpoints inside the package, by the name a config gives them."""


def source(settings: MLLM) -> dict[str, Any]:
    """What every `from_pretrained` is told: where the checkpoint lies, and whether the network may be asked."""
    place = EMBEDDED.get(settings.checkpoint, Path(settings.checkpoint))
    local = place.is_dir()
    return {
        "pretrained_model_name_or_path": str(place) if local else settings.checkpoint,
        "revision": None if local else settings.revision,
        "local_files_only": local,
        "trust_remote_code": settings.trust_remote_code,
    }


def load_config(settings: MLLM) -> PretrainedConfig:
    """Reads the checkpoint's config alone; raises UserError where there is none to be had."""
    if not source(settings)["local_files_only"] and _looks_like_path(settings.checkpoint):
        raise UserError(f"model.mllm.checkpoint: there is no folder {settings.checkpoint!r}")
    try:
        return AutoConfig.from_pretrained(**source(settings))
    except (OSError, ValueError) as error:
        raise UserError(_explain(settings, error)) from error


def load_processor(settings: MLLM) -> Any:
    """The checkpoint's own processor, with its chat template."""
    try:
        processor = AutoProcessor.from_pretrained(**source(settings))
    except (OSError, ValueError) as error:
        raise UserError(_explain(settings, error)) from error
    if getattr(processor, "chat_template", None) is None:
        raise UserError(f"model.mllm.checkpoint: the processor of {settings.checkpoint!r} has no chat template")
    return processor


def load_model(settings: MLLM) -> PreTrainedModel:
    """The frozen model in evaluation mode, from safetensors only."""
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            **source(settings),
            dtype=settings.dtype,
            attn_implementation=settings.attn_implementation,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise UserError(_explain(settings, error)) from error
    return model.eval().requires_grad_(False)


def _looks_like_path(checkpoint: str) -> bool:
    return checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") != 1


def _explain(settings: MLLM, error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0]
    return (
        f"model.mllm.checkpoint: {settings.checkpoint!r} cannot be loaded ({first_line}); give `shapes`, a local folder "
        "with config.json, safetensors and processor files, or a hub id that this machine can reach or has cached"
    )


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Tells one set of weights from another by up to 64 values of every tensor, spread over it."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        flat = value.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
        digest.update(f"{name} {tuple(value.shape)} ".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
