"""What is no public API of transformers and shared by all models: the one place that a renamed argument changes.

A family's own paths stand in its row (`families/`). `tests/models/test_contract.py` resolves both on tiny models and
says which name is gone.
"""

from __future__ import annotations

import copy
import inspect
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Protocol

import torch
import transformers
from jaxtyping import Bool, Float, Int, Shaped
from packaging.version import Version
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tokenlab.models.hooks import Counted

TESTED = ("5.23.0", "5.24.0")
"""The lowest and the newest release of transformers on which `.ci/run` ran."""

_LOG = logging.getLogger("tokenlab")


@cache
def warn_if_untested() -> None:
    """Logs one line, once a process, where the installed transformers is a release that nobody tested."""
    lowest, newest = (Version(version).release[:2] for version in TESTED)
    if not lowest <= Version(transformers.__version__).release[:2] <= newest:
        _LOG.warning(
            "tokenlab was tested on transformers %s to %s, not on %s: `tokenlab doctor` says where you stand",
            *TESTED,
            transformers.__version__,
        )


CACHE_NAMES = ("cache", "past_key_values")
"""What a decoder's call, a layer's call and `generate` name the KV cache: since 5.24, and before."""

CACHE = next(name for name in CACHE_NAMES if name in inspect.signature(create_causal_mask).parameters)
"""The installed release's name of the KV cache."""

SEQUENCE_AXIS = {"position_ids": -1, "position_embeddings": -2}
"""Arguments of a layer's call that have a column a token of the sequence, and which axis that is."""


class DecoderLayer(Protocol):
    """A layer of an LLM, as far as it is named: attention and then an MLP, each behind a norm of its own."""

    input_layernorm: nn.Module
    self_attn: nn.Module
    post_attention_layernorm: nn.Module
    mlp: nn.Module


@dataclass(frozen=True)
class Decoder:
    """The LLM of a model, with the parts that hooks act on; resolved once, when a model is loaded.

    Attributes:
        module: The LLM without its head; called with `inputs_embeds` and `CACHE`.
        layers: Its layers.
        norm: What stands behind the last of them.
        rotary: Makes rotary embeddings of position ids.
    """

    module: Any
    layers: tuple[Any, ...]
    norm: Any
    rotary: Any

    @classmethod
    def of(cls, model: PreTrainedModel) -> Decoder:
        """Finds the LLM of a model."""
        module: Any = model.model.get_decoder()
        return cls(module, tuple(module.layers), module.norm, module.rotary_emb)

    def rotate(
        self, hidden: Float[Tensor, "b s d"], positions: Int[Tensor, "*axes b s"]
    ) -> tuple[Float[Tensor, "*_ s e"], Float[Tensor, "*_ s e"]]:
        """Cosines and sines; M-RoPE has a fourth row, of plain text positions, which is not rotated by."""
        return self.rotary(hidden, positions if positions.ndim == 2 else positions[-3:])

    def projections(
        self,
        layer: int,
        probe: AttentionProbe,
        hidden: Float[Tensor, "b s d"],
        rotary: tuple[Float[Tensor, "*_ s e"], Float[Tensor, "*_ s e"]],
    ) -> tuple[Float[Tensor, "b h s e"], Float[Tensor, "b g s e"], Float[Tensor, "b g s f"]]:
        """Queries, keys and values that a layer makes of a sequence, by its own norm and module; it does not attend.

        Args:
            layer: The layer.
            probe: Of its attention, active in this context.
            hidden: What the layer reads.
            rotary: Cosines and sines.
        """
        module = self.layers[layer]
        before, probe.record, probe.attends = probe.record, True, False
        try:
            module.self_attn(module.input_layernorm(hidden), position_embeddings=rotary, attention_mask=None)
        finally:
            probe.record, probe.attends = before, True
        return probe.take()


def unwrapped(model: Any) -> Any:
    """Finds the model inside PEFT's or torch.compile's wrapper; both hand `generate` on to it."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and hasattr(model, "get_base_model"):
            inner = model.get_base_model()
        if inner is None or inner is model:
            return model
        model = inner


def windows_of(config: PretrainedConfig) -> tuple[int | None, ...]:
    """How many tokens each layer of a checkpoint's LLM attends to at most; None for all of them."""
    text = config.get_text_config()
    layers: Any = DynamicCache(config=text).layers
    windows = [layer.sliding_window if layer.is_sliding else None for layer in layers]
    return tuple(windows) or (None,) * text.num_hidden_layers


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """Makes an empty KV cache for a model's LLM."""
    return DynamicCache(config=model.config.get_text_config())


def gather_cache(cache: DynamicCache, layer: int, index: Int[Tensor, "b k"]) -> None:
    """Lets one layer's KV cache keep only some columns, row by row."""
    kept: Any = cache.layers[layer]
    for name in ("keys", "values"):
        value: Tensor = getattr(kept, name)
        where = index.to(value.device)[:, None, :, None].expand(-1, value.shape[1], -1, value.shape[3])
        setattr(kept, name, value.gather(2, where))


def own_positions(model: PreTrainedModel, inputs: Mapping[str, Shaped[Tensor, "1 ..."]]) -> Int[Tensor, "axes s"]:
    """The model's own position ids of one untouched, unpadded prompt: one row, or one for text and three of M-RoPE."""
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    prepare: Any = model._prepare_position_ids_for_generation
    left_behind = vars(model.model).get("rope_deltas")
    positions: Tensor = prepare(inputs["input_ids"], rest).cpu()
    if "rope_deltas" in vars(model.model):  # M-RoPE keeps what it found last; the next call is not to see ours
        model.model.rope_deltas = left_behind
    return positions[None, 0] if positions.ndim == 2 else positions[:, 0]


@dataclass
class AttentionProbe:
    """What is asked of one attention module during one request.

    Attributes:
        record: Whether queries, keys and values of the next calls are kept.
        queries: Those of the recorded calls.
        keys: Those of the recorded calls, before `visible` chooses some.
        values: Likewise.
        scaling: Of the logits.
        bias: Added to the logits of every key.
        visible: The cached tokens that the next call attends to; None: all.
        attends: Whether calls attend; if not, they give back zeros.
    """

    record: bool = False
    queries: list[Float[Tensor, "b h q e"]] = field(default_factory=list)
    keys: list[Float[Tensor, "b g k e"]] = field(default_factory=list)
    values: list[Float[Tensor, "b g k f"]] = field(default_factory=list)
    scaling: float = 1.0
    bias: Float[Tensor, "b k"] | None = None
    visible: KVTransform | None = None
    attends: bool = True

    def take(self) -> tuple[Float[Tensor, "b h q e"], Float[Tensor, "b g k e"], Float[Tensor, "b g k f"]]:
        """Hands out queries, keys and values of the last recorded call, and lets go of them."""
        return self.queries.pop(), self.keys.pop(), self.values.pop()

    def clear(self) -> None:
        """Lets go of what was recorded."""
        self.queries.clear()
        self.keys.clear()
        self.values.clear()


@dataclass(frozen=True)
class KVTransform:
    """Which tokens of a layer's cache an attention call looks at; the cache itself stays.

    Attributes:
        index: Their columns, padded on the left.
        valid: Which of those are no padding; None: all.
    """

    index: Int[Tensor, "b k"]
    valid: Bool[Tensor, "b k"] | None

    def apply(
        self,
        query: Float[Tensor, "b h 1 e"],
        key: Float[Tensor, "b g s e"],
        value: Float[Tensor, "b g s f"],
        mask: Shaped[Tensor, "b ..."] | None,
    ) -> tuple[Float[Tensor, "b g k e"], Float[Tensor, "b g k f"], Float[Tensor, "b 1 1 k"] | None]:
        """Keys, values and the mask on the logits that are left; of a step's mask only what is added matters here."""
        where = self.index.to(key.device)[:, None, :, None]
        key, value = (x.gather(2, where.expand(-1, x.shape[1], -1, x.shape[3])) for x in (key, value))
        left = mask.gather(3, where.transpose(2, 3)) if mask is not None and mask.is_floating_point() else None
        if self.valid is None:
            return key, value, left
        blocked = ~self.valid.to(key.device)[:, None, None]
        left = torch.zeros_like(blocked, dtype=query.dtype) if left is None else left
        return key, value, left.masked_fill(blocked, torch.finfo(query.dtype).min)


_PROBES: ContextVar[Mapping[nn.Module, AttentionProbe]] = ContextVar("tokenlab_probes", default=MappingProxyType({}))
_PROBED = Counted()
_KERNEL = "_tokenlab_own_kernel"


@contextmanager
def attention_probes(probes: Mapping[nn.Module, AttentionProbe]) -> Iterator[None]:
    """While active, the attention of some modules is probed for calls of this context; outputs stay the same.

    A module's kernel is replaced through `AttentionInterface`, by a config of its own; for calls of other contexts the
    replacement does nothing.
    """
    with ExitStack() as stack:
        for module in probes:
            stack.enter_context(_PROBED.use(module, "probe", lambda module=module: _replace_kernel(module)))
        before = _PROBES.set({**_PROBES.get(), **probes})
        stack.callback(_PROBES.reset, before)
        yield


def _replace_kernel(module: Any) -> Any:
    """Gives one attention module a config that names our kernel; returns what gives it its own back."""
    shared = module.config
    own = copy.copy(shared)
    setattr(own, _KERNEL, shared._attn_implementation)
    own._attn_implementation = "tokenlab_probe"
    module.config = own  # this module's alone: its siblings share the config it had

    def restore() -> None:
        module.config = shared

    return restore


@torch.compiler.disable
def _probed_attention(
    module: Any,
    query: Float[Tensor, "b h q e"],
    key: Float[Tensor, "b g k e"],
    value: Float[Tensor, "b g k f"],
    attention_mask: Shaped[Tensor, "b ..."] | None = None,
    **kwargs: Any,
) -> Any:
    """The module's own kernel, recorded or changed as a probe of this context asks."""
    if (probe := _PROBES.get().get(module)) is not None:
        if probe.record:
            probe.queries.append(query)
            probe.keys.append(key)
            probe.values.append(value)
            probe.scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        if not probe.attends:
            return query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3]), None
        if probe.visible is not None:
            key, value, attention_mask = probe.visible.apply(query, key, value, attention_mask)
        if probe.bias is not None:
            attention_mask = probe.bias.to(key)[:, None, None]
    config = module.config  # read once: another thread's probe may come or go meanwhile
    kernel = getattr(config, _KERNEL, config._attn_implementation)
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)  # each family's own
    run = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, eager)
    return run(module, query, key, value, attention_mask=attention_mask, **kwargs)


AttentionInterface.register("tokenlab_probe", _probed_attention)
