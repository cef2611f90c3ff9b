"""A batch of prompts as the arguments of stock `generate`: padded ids, masks, positions and encoder outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenlab.models.prompt.reduced import ReducedPrompt
from tokenlab.models.vision.encode import Encoded
from tokenlab.tokens.padding import left_padded, padded_positions


def generate_arguments(
    prompts: Sequence[ReducedPrompt], processor: Any, device: torch.device, deepstack_layers: int | None = None
) -> dict[str, Any]:
    """Everything that `generate` reads of a batch of prompts, padded on the left.

    Args:
        prompts: All with position ids of their own, or none.
        processor: The checkpoint's processor, which tells kinds of tokens apart.
        device: Where the model is.
        deepstack_layers: How many LLM layers shall add features of further tower layers by themselves; None: all.
    """
    ids = left_padded([prompt.layout.ids for prompt in prompts], pad_token_id(processor))
    mask = left_padded([torch.ones_like(prompt.layout.ids) for prompt in prompts])
    arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    media = [each.processed for prompt in prompts for each in prompt.encoded]
    if any(each.spec.token_types for each in media):
        arguments["mm_token_type_ids"] = torch.tensor(processor.create_mm_token_type_ids(ids.tolist()))
    positions = [prompt.positions for prompt in prompts if prompt.positions is not None]
    if positions:
        arguments["position_ids"] = padded_positions(positions)
    else:  # the model finds positions by itself, and reads of the media what it needs for that
        for name in dict.fromkeys(name for each in media for name in each.spec.llm_inputs):
            arguments[name] = torch.cat([each.inputs[name] for each in media if name in each.spec.llm_inputs])
    arguments = {name: value.to(device) for name, value in arguments.items()}
    if outputs := _encoder_outputs(prompts, deepstack_layers):
        arguments["mm_encoder_outputs"] = outputs
    return arguments


def dense_deepstack(
    prompts: Sequence[ReducedPrompt], first_layer: int, like: Float[Tensor, "b s d"]
) -> list[Float[Tensor, "b s d"]]:
    """For each LLM layer from `first_layer` on, what it adds to every token of the padded batch; zeros for text."""
    depth = max((len(layers) for prompt in prompts for layers in prompt.deepstack), default=0)
    dense = [torch.zeros_like(like) for _ in range(first_layer, depth)]
    for row, prompt in enumerate(prompts):
        start = like.shape[1] - len(prompt.layout)
        for number, layers in enumerate(prompt.deepstack):
            where = (prompt.layout.owner == number).nonzero()[:, 0].to(like.device) + start
            for layer, added in zip(dense, layers[first_layer:], strict=True):
                layer[row, where] = added.to(like)
    return dense


def pad_token_id(processor: Any) -> int:
    """What fills a batch on the left; never read, so that any id but the placeholder's will do."""
    tokenizer = processor.tokenizer
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def _encoder_outputs(prompts: Sequence[ReducedPrompt], deepstack_layers: int | None) -> dict[str, Any]:
    """What `generate` takes in place of pixels: by encoder, one output for all media of the batch, in prompt order."""
    by_encoder: dict[str, list[tuple[Encoded, Float[Tensor, "_ d"], list[Float[Tensor, "_ d"]]]]] = {}
    for prompt in prompts:
        for encoded, rows, layers in zip(prompt.encoded, prompt.features, prompt.deepstack, strict=True):
            group = by_encoder.setdefault(encoded.processed.spec.encoder, [])
            group.append((encoded, rows, layers[:deepstack_layers]))
    outputs = {}
    for encoder, group in by_encoder.items():
        encoded, features, deepstack = zip(*group, strict=True)
        outputs[encoder] = encoded[0].processed.spec.encoder_output(encoded[0].output, features, deepstack)
    return outputs
