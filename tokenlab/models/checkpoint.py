"""Loading checkpoints: config first, so that impossible runs stop early; safetensors only; network only for hub ids."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)

import tokenlab
from tokenlab.errors import UserError, first_line
from tokenlab.models.families.media import render_chat
from tokenlab.models.settings import MLLM

_SHAPES = Path(tokenlab.__file__).parent / "shapes" / "checkpoint"
EMBEDDED = {"shapes": _SHAPES / "llava"}
"""Checkpoints inside the package, by the name a config gives them."""
EMBEDDED_AUXILIARY = {"shapes": _SHAPES / "clip"}
"""Auxiliary encoders inside the package."""


def checkpoint_location(settings: MLLM, auxiliary: str | None = None) -> dict[str, Any]:
    """Says to every `from_pretrained` where the checkpoint lies, and whether the network may be asked.

    Args:
        settings: The model's settings.
        auxiliary: The kind of auxiliary encoder meant; None for the model itself.
    """
    name = settings.checkpoint if auxiliary is None else settings.auxiliary[auxiliary]
    folder = (EMBEDDED if auxiliary is None else EMBEDDED_AUXILIARY).get(name, Path(name))
    local = folder.is_dir()
    if not local and (name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise UserError(f"{_key(auxiliary)}: there is no folder {name!r}")
    return {
        "pretrained_model_name_or_path": str(folder) if local else name,
        "revision": None if local or auxiliary else settings.revision,
        "local_files_only": local,
        "trust_remote_code": settings.trust_remote_code,
    }


NEEDED = {
    "attn_implementation": ("flash_attention_2", "flash_attn", "flash-attn"),
    "quantization": (None, "bitsandbytes", "bitsandbytes"),
    "device_map": (None, "accelerate", "accelerate"),
}
"""Settings that need another package: the value that does (None: any), its module, and what to install."""


def check_settings(settings: MLLM) -> None:
    """Raises UserError where a setting is out of range, needs a package that is not installed, or another setting."""
    for key in ("batch_size", "max_new_tokens"):
        setting = getattr(settings, key)
        if setting is not None and setting < 1:
            raise UserError(f"model.mllm.{key} is {setting}, but must be at least 1")
    for key, (value, module, package) in NEEDED.items():
        setting = getattr(settings, key)
        if setting is not None and value in (None, setting) and find_spec(module) is None:
            raise UserError(f"model.mllm.{key} is {setting!r}, which needs {package}: pip install {package}")
    if settings.quantization == "8bit" and (settings.batch_size or 1) > 1:
        raise UserError(
            f"model.mllm.batch_size is {settings.batch_size}, but 8-bit products set the outliers of a whole batch "
            "apart, so that an answer would depend on what else is in its batch; give 1"
        )
    if settings.attn_implementation == "flash_attention_2" and settings.dtype == "float32":
        raise UserError("model.mllm.dtype is 'float32', but flash_attention_2 needs bfloat16 or float16")


def load_config(settings: MLLM, auxiliary: str | None = None) -> PretrainedConfig:
    """Reads a checkpoint's config alone; raises UserError where there is none to be had."""
    return _load(AutoConfig.from_pretrained, settings, auxiliary)


def load_processor(settings: MLLM, auxiliary: str | None = None) -> Any:
    """The checkpoint's own processor; raises UserError where it cannot be read, or has no chat template that works."""
    processor = _load(AutoProcessor.from_pretrained, settings, auxiliary)
    if auxiliary is None:
        _check_chat_template(processor)
    return processor


def _check_chat_template(processor: Any) -> None:
    word = "question"
    try:
        text = render_chat(processor, [{"type": "text", "text": word}])
    except Exception as error:  # a template is a program
        reason = first_line(error)
    else:
        if word in text:
            return
        reason = "it leaves the question out"
    raise UserError(
        f"model.mllm.checkpoint: its chat template cannot be used ({reason}); put the one of its model card beside the "
        "processor's files, as chat_template.jinja"
    )


def load_model(settings: MLLM, auxiliary: str | None = None) -> PreTrainedModel:
    """The frozen model in evaluation mode, from safetensors only."""
    kind = AutoModelForImageTextToText if auxiliary is None else AutoModel
    if auxiliary is None:
        _check_generation_config(settings)
    weights: dict[str, Any] = {
        "dtype": settings.dtype,
        "attn_implementation": settings.attn_implementation,
        "use_safetensors": True,
    }
    if auxiliary is None and settings.is_placed:
        weights["device_map"] = settings.device_map or "auto"
    if auxiliary is None and settings.quantization is not None:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at every product what it casts
        weights["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=settings.quantization == "8bit",
            load_in_4bit=settings.quantization == "4bit",
            bnb_4bit_compute_dtype=None if settings.dtype == "auto" else settings.dtype,
        )
    model, info = _load(kind.from_pretrained, settings, auxiliary, **weights, output_loading_info=True)
    _check_tensors(info, settings, auxiliary)
    return model.eval().requires_grad_(False)


def _check_generation_config(settings: MLLM) -> None:
    """Raises UserError where a local generation config is damaged: transformers takes one of its own, in silence."""
    folder = Path(checkpoint_location(settings)["pretrained_model_name_or_path"])
    if (folder / "generation_config.json").is_file():
        _load(lambda **_: GenerationConfig.from_pretrained(folder), settings, None)


def _check_tensors(info: dict[str, Any], settings: MLLM, auxiliary: str | None) -> None:
    """Raises UserError where transformers drew tensors at random because the checkpoint lacks them."""
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        folder = checkpoint_location(settings, auxiliary)["pretrained_model_name_or_path"]
        raise UserError(
            f"{_key(auxiliary)}: {folder!r} lacks {len(missing)} tensors that its model has ({', '.join(missing[:3])}"
            f"{more}): transformers would draw them at random; fetch or convert the checkpoint again"
        )


def _load(read: Callable[..., Any], settings: MLLM, auxiliary: str | None, **arguments: Any) -> Any:
    """Calls a `from_pretrained`; what cannot be loaded becomes one line that says what to do."""
    location = checkpoint_location(settings, auxiliary)
    try:
        return read(**location, **arguments)
    except Exception as error:  # readers of damaged files raise whatever they like; some of them bare Exceptions
        raise UserError(
            f"{_key(auxiliary)}: {location['pretrained_model_name_or_path']!r} cannot be loaded ({first_line(error)}); "
            "give `shapes`, a local folder with config.json, safetensors and processor files, or a hub id that this "
            "machine can reach or has cached"
        ) from error


def _key(auxiliary: str | None) -> str:
    return "model.mllm.checkpoint" if auxiliary is None else f"model.mllm.auxiliary.{auxiliary}"


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Tells one set of weights from another by up to 64 values of every tensor, spread over it."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        flat = value.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
        digest.update(f"{name} {tuple(value.shape)} ".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
