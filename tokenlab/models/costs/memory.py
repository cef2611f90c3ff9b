"""What a run needs of a device's memory, before any weights are loaded: weights, KV cache and activations.

Weights and cache are exact. Activations are an estimate: what one block holds at once when all rows of a batch pass, in
the tower or in the LLM, whichever is more; allocators take some more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.costs.vision import MediumShape
from tokenlab.models.settings import MLLM

QUANTISED = {"8bit": 1.0, "4bit": 0.5}
"""Bytes of a quantised weight."""

TEXT_TOKENS = 64
"""Template and question of a prompt: few beside the visual tokens."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes on the device.

    Attributes:
        weights: Of model and auxiliary encoders.
        cache: The KV cache of a batch when its answers are complete.
        activations: An estimate of what a forward pass holds besides.
        batch_size: Prompts that go through the LLM together.
    """

    weights: int
    cache: int
    activations: int
    batch_size: int

    @property
    def total(self) -> int:
        """All parts."""
        return self.weights + self.cache + self.activations

    def line(self, device: torch.device, free: int | None) -> str:
        """What is needed and, where it is known what is free, whether it fits."""
        parts = f"{_size(self.weights)} weights, {_size(self.cache)} KV cache, {_size(self.activations)} activations"
        needs = f"The model needs about {_size(self.total)} at batch size {self.batch_size}: {parts}"
        if free is None:
            return f"{needs}."
        if self.total <= free:
            return f"{needs}; {device} has {_size(free)} free."
        return (
            f"{needs}; {device} has only {_size(free)} free: lower model.mllm.batch_size or data.num_frames, or choose "
            "another model.mllm.dtype, quantization or device_map."
        )


def needed_memory(costs: ModelCosts, settings: MLLM, batch_size: int, media: Sequence[MediumShape]) -> MemoryNeed:
    """Computes what the untouched model needs for a batch of prompts that each show these media."""
    number = _bytes_of_number(costs, settings)
    weights = sum(costs.parameters.values()) * QUANTISED.get(settings.quantization or "", number)
    weights += number * sum(each.numel() for encoder in costs.encoders.values() for each in encoder.parameters())
    tokens = sum(medium.num_tokens for medium in media) + TEXT_TOKENS
    length = tokens + settings.max_new_tokens - 1
    cache = batch_size * costs.cache_elements([length] * costs.num_layers)
    llm = batch_size * _llm_elements(costs, tokens, settings.attn_implementation == "eager", padded=batch_size > 1)
    tower = max((_tower_elements(costs, medium) for medium in media), default=0)
    return MemoryNeed(int(weights), number * cache, number * max(llm, tower), batch_size)


def longest_media(costs: ModelCosts, shown: Iterable[Sequence[bool]], num_frames: int) -> list[MediumShape]:
    """The media of the longest prompt, frames at the model's own size.

    Args:
        costs: The model's.
        shown: Of each prompt, whether each of its media is an image.
        num_frames: Of a video.
    """
    shape, reads_videos = costs.vision.shape, costs.family.video is not None
    prompts = [
        [shape(1 if is_image else num_frames, is_image=is_image) for is_image in media if is_image or reads_videos]
        for media in shown
    ]
    return max(prompts, key=lambda media: sum(medium.num_tokens for medium in media))


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device has free; of the CPU's where Linux says it; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    table = Path("/proc/meminfo")
    if device.type == "cpu" and table.exists():
        for line in table.read_text().splitlines():
            name, _, kibibytes = line.partition(":")
            if name == "MemAvailable":
                return 1024 * int(kibibytes.split()[0])
    return None


def _bytes_of_number(costs: ModelCosts, settings: MLLM) -> int:
    name = str(costs.config.dtype or "float32") if settings.dtype == "auto" else settings.dtype
    return getattr(torch, name.removeprefix("torch.")).itemsize


def _llm_elements(costs: ModelCosts, tokens: int, eager: bool, padded: bool) -> int:
    """Numbers that one prompt's prefill holds: embeddings, one layer, mask and logits."""
    layer = costs.model.model.get_decoder().layers[0]
    hidden = costs.text.hidden_size
    scores = costs.text.num_attention_heads * tokens**2 * 2 if eager else tokens**2 if padded else 0
    return tokens * (hidden + block_elements(layer, hidden)) + scores + 2 * costs.text.vocab_size


def _tower_elements(costs: ModelCosts, medium: MediumShape) -> int:
    """Numbers that the tower holds of one medium: its pixels, a block, and all blocks' outputs where it keeps them."""
    height, width = medium.resolution
    block = costs.vision.blocks(costs.model)[0]
    patch = costs.config.vision_config.patch_size
    patch = patch if isinstance(patch, int) else patch[0]
    rows = medium.passes * (height // patch) * (width // patch)
    hidden = next(module.in_features for module in block.modules() if isinstance(module, nn.Linear))
    kept = len(costs.vision.blocks(costs.model)) if costs.family.norm else 0
    return medium.passes * 3 * height * width + rows * ((kept + 1) * hidden + block_elements(block, hidden))


def block_elements(block: nn.Module, hidden: int) -> int:
    """Numbers that a block of a transformer holds for one token: the residual, what a norm made of it, and either part.

    A part holds the outputs of its linear layers, and one more of the widest: a product, or a rotated query.
    """
    parts = []
    for part in block.children():
        widths = [module.out_features for module in part.modules() if isinstance(module, nn.Linear)]
        parts.append(sum(widths) + max(widths, default=0))
    return 2 * hidden + max(parts)


def _size(number: int) -> str:
    scale, unit = (2**30, "GiB") if number >= 2**30 else (2**20, "MiB")
    return f"{number / scale:.1f} {unit}"
