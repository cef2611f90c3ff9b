"""The contract with transformers: every name that is no public API, resolved on a tiny model, by who needs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tokenlab.models.families import Family, MediaSpec
from tokenlab.models.hf import CACHE, SEQUENCE_AXIS, Decoder

FORWARD_ARGUMENTS = ("input_ids", "attention_mask", "position_ids", "mm_encoder_outputs", CACHE)
ATTENTION_ARGUMENTS = ("hidden_states", "position_embeddings", "attention_mask")
LAYER_ARGUMENTS = ("hidden_states", "attention_mask", CACHE, *SEQUENCE_AXIS)


def missing_names(family: Family, model: PreTrainedModel) -> list[str]:
    """Lists the names that are gone, each as `where: what`; empty where the contract holds."""
    return [name for name, resolve in _names(family, model) if not _holds(resolve)]


def _holds(resolve: Callable[[], Any]) -> bool:
    try:
        return resolve() is not False
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return False


def _names(family: Family, model: PreTrainedModel) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What stands in `models/hf.py`, and then what stands in the family's row."""
    yield "transformers: AttentionInterface.register", lambda: AttentionInterface.register
    yield "transformers: ALL_ATTENTION_FUNCTIONS.get_interface", lambda: ALL_ATTENTION_FUNCTIONS.get_interface
    yield "transformers: DynamicCache.crop", lambda: DynamicCache.crop
    yield "transformers: layers of a DynamicCache, with keys and values", lambda: _holds_keys(model)
    yield (
        "model: _prepare_position_ids_for_generation",
        lambda: _attribute(model, "_prepare_position_ids_for_generation"),
    )
    yield "model: get_decoder() with layers, norm and rotary_emb", lambda: Decoder.of(model)
    yield "decoder: config._attn_implementation", lambda: Decoder.of(model).module.config._attn_implementation
    for name in FORWARD_ARGUMENTS:
        yield f"model.forward: {name}", lambda name=name: _takes(model.forward, name)
    for name in LAYER_ARGUMENTS:
        yield f"layer.forward: {name}", lambda name=name: _takes(Decoder.of(model).layers[0].forward, name)
    for name in ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp"):
        yield f"layer: {name}", lambda name=name: _attribute(Decoder.of(model).layers[0], name)
    for name in ATTENTION_ARGUMENTS:
        yield f"layer.self_attn.forward: {name}", lambda name=name: _takes(_first_attention(model).forward, name)
    yield "layer.self_attn: config", lambda: _first_attention(model).config
    yield from _row(family, model)


def _row(family: Family, model: PreTrainedModel) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The family's own paths."""
    row = family.name
    yield f"{row}: tower = {family.tower}", lambda: family.tower_of(model)
    for part in family.tower_parts:
        yield f"{row}: tower_parts = {part}", lambda part=part: _attribute(family.tower_of(model), part)
    if family.projector:
        yield f"{row}: projector = {family.projector}", lambda: family.projector_of(model)
    for spec in filter(None, (family.image, family.video)):
        yield from _spec(row, family, spec, model)


def _spec(row: str, family: Family, spec: MediaSpec, model: PreTrainedModel) -> Iterator[tuple[str, Callable[[], Any]]]:
    """How the family reads one kind of medium."""
    encoder = f"get_{spec.encoder}_features"
    yield f"{row}: {encoder}", lambda: _takes(_attribute(model.model, encoder), "return_dict")
    yield f"{row}: placeholder = {spec.placeholder}", lambda: _attribute(model.config, spec.placeholder) is not None
    yield f"{row}: blocks = {spec.blocks or family.blocks}", lambda: family.blocks_of(model, spec)[0]
    yield f"{row}: attention = {family.attention}", lambda: family.attention_of(model, spec, 0).config
    if family.norm:
        yield f"{row}: norm = {family.norm}", lambda: _attribute(family.blocks_of(model, spec)[0], family.norm)
        yield f"{row}: a block's mlp", lambda: _attribute(family.blocks_of(model, spec)[0], "mlp")


def _holds_keys(model: PreTrainedModel) -> bool:
    layer: Any = DynamicCache(config=model.config.get_text_config()).layers[0]
    return hasattr(layer, "keys") and hasattr(layer, "values")


def _first_attention(model: PreTrainedModel) -> Any:
    return Decoder.of(model).layers[0].self_attn


def _attribute(owner: Any, name: str) -> Any:
    return getattr(owner, name)


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has an argument of this name, or takes whatever it is given."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
