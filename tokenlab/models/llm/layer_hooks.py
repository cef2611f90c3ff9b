"""The hooks inside the LLM: prompts lose tokens from layer to layer, and each layer's cache keeps what that layer read.

The stock loop hands every layer the mask, the positions and the rotary embedding of the LLM's entry. From the first
layer at which a method acts to the last one, each layer has a hook at its entry, which gathers of all these what
belongs to the layer's own sequence, at prefill and at every step after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from tokenlab.compressors.pipeline import LayerPlan
from tokenlab.compressors.stages import Moment
from tokenlab.models.clock import stage
from tokenlab.models.hf import CACHE, SEQUENCE_AXIS, AttentionProbe, Decoder, gather_cache
from tokenlab.models.hooks import HookPoint
from tokenlab.models.llm.attention import PrefillAttention, last_attention, own_rows
from tokenlab.models.llm.masks import reduced_mask, weighted_mask
from tokenlab.models.llm.state import PromptState
from tokenlab.models.llm.visible_tokens import VisibleTokens
from tokenlab.reduction import Reduction
from tokenlab.tokens.padding import left_padded, padded_positions, valid_columns
from tokenlab.trace import Trace


@dataclass(frozen=True)
class PaddedLayerInput:
    """A left-padded batch as some layers read it.

    Attributes:
        index: The column of each token in the batch at the LLM's entry.
        valid: Which places are no padding; None: all.
        positions: Position ids, where they were renumbered since the entry.
        rotary: Cosines and sines of those.
        log_size: What attention adds to the logits of each token; None: nothing.
    """

    index: Int[Tensor, "b s"]
    valid: Bool[Tensor, "b s"] | None
    positions: Int[Tensor, "*axes b s"] | None = None
    rotary: tuple[Float[Tensor, "*_ s e"], Float[Tensor, "*_ s e"]] | None = None
    log_size: Float[Tensor, "b s"] | None = None


class DecoderHooks:
    """One call of `generate`; all its prompts come from the same pipeline.

    Args:
        decoder: The LLM.
        prompts: The batch.
        plan: Where the pipeline's methods act.
        width: Length of the padded batch at the LLM's entry.
        deepstack: What the layers from the plan's first on add to every token.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[PromptState],
        plan: LayerPlan,
        width: int,
        deepstack: Sequence[Float[Tensor, "b s d"]],
    ) -> None:
        self.decoder, self.prompts, self.plan, self.width = decoder, prompts, plan, width
        self.deepstack = list(deepstack)
        self.num_layers, self.first = len(decoder.layers), plan.first_layer
        self.step = -1  # 0: prefill
        self.is_gathered = not plan.gathered_layers
        self.current: PaddedLayerInput | None = None  # None: nothing is reduced yet
        self.inputs: dict[int, PaddedLayerInput | None] = {}  # by layer
        self.probes = {layer: AttentionProbe(record=layer in plan.prefill_probes) for layer in plan.probed_layers}
        self.attention = PrefillAttention(decoder, prompts, plan, self.probes)
        self.visible = VisibleTokens(prompts, plan, self.num_layers) if plan.cache_methods else None
        for prompt in prompts:
            prompt.read(self.first)

    @property
    def hook_points(self) -> list[HookPoint]:
        """One at the entry of each layer from the first at which a method acts; more only where layers are split."""
        found = []
        for index in range(self.first, self.num_layers):
            layer: Any = self.decoder.layers[index]
            split = index in self.plan.split_layers
            found.append(HookPoint(layer, "before", partial(_on, DecoderHooks.pre_layer, index)))
            if split:
                norm, mlp = layer.post_attention_layernorm, layer.mlp
                found.append(HookPoint(norm, "before", partial(_on, DecoderHooks.pre_mlp, index)))
                found.append(HookPoint(mlp, "behind", partial(_on, DecoderHooks.post_mlp, index)))
            if split or index - self.first < len(self.deepstack):
                found.append(HookPoint(layer, "behind", partial(_on, DecoderHooks.post_layer, index)))
        return found

    @property
    def attention_probes(self) -> dict[nn.Module, AttentionProbe]:
        """By attention module."""
        return {self.decoder.layers[layer].self_attn: probe for layer, probe in self.probes.items()}

    # --- hooks -----------------------------------------------------------------------------------------------------

    def pre_layer(self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        """At a layer's entry: tokens go at prefill, and the layer is given what belongs to its own sequence."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if index == self.first:
            self.step += 1
            self.prepared: dict[int, dict[str, Any]] = {}
            if self.step and not self.is_gathered:
                self.gather_caches(kwargs[CACHE])
            if self.step and self.visible:
                self.visible.begin_step(self.step)
        if self.step == 0:
            self.attention.record(index - 1)
            hidden = self.reduce(hidden, index, "before_attention")
            self.inputs[index] = self.current
            self.attention.before_layer(index, hidden)
            for prompt in self.prompts:
                prompt.read()
            if index == self.num_layers - 1:
                self.prepare_decoding()
        elif self.visible:
            self.visible.choose(index, self.decode_attention(index - 1))
            if index in self.plan.narrowed_layers:
                self.probes[index].visible = self.visible.kv_transform(index)
        kwargs = {**kwargs, **self.arguments(index, hidden, kwargs)}
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def pre_mlp(self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        """Between attention and MLP: the MLP reads what is left."""
        if self.step:
            return None
        self.attention.record(index)
        self.residual = self.reduce(args[0], index, "after_attention")
        for prompt in self.prompts:
            prompt.mlp_tokens[index] = len(prompt.layout)
        return (self.residual, *args[1:]), kwargs

    def post_mlp(
        self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Float[Tensor, "b s d"]
    ) -> Float[Tensor, " 1"] | None:
        """The layer would add the MLP's output to its untouched residual; `post_layer` adds it to the reduced one."""
        if self.step:
            return None
        self.mlp_output = output
        return output.new_zeros(1)

    def post_layer(
        self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Float[Tensor, "b s d"]
    ) -> Float[Tensor, "b r d"] | None:
        """At a layer's end: its true output, where tokens went in its middle, and what DeepStack adds."""
        if self.step:
            return None
        if index in self.plan.split_layers:
            output = self.residual + self.mlp_output
        if index - self.first < len(self.deepstack):
            output = output + self.deepstack[index - self.first].to(output.device)
        return output

    def rewind(self, steps: int) -> None:
        """Takes back decode steps up to the prefill, with what methods remember of them."""
        if steps:
            self.step -= steps
            if self.visible:
                self.visible.rewind()

    # --- prefill ---------------------------------------------------------------------------------------------------

    def reduce(self, hidden: Float[Tensor, "b s d"], layer: int, moment: Moment) -> Float[Tensor, "b r d"]:
        """Lets all methods that look at this point reduce the batch, one after the other."""
        places = self.plan.points.get((layer, moment), ())
        if not places:
            return hidden
        width = hidden.shape[1]
        totals = [Reduction.identity(len(prompt.layout)) for prompt in self.prompts]
        rows = own_rows(hidden, self.prompts)
        renumbered = False
        for place in places:
            method = self.plan.layer_methods[place]
            for row, prompt in enumerate(self.prompts):
                evidence = self.attention.evidence(method, prompt, rows[row], layer, moment)
                decisions = prompt.decide(method, place, rows[row], layer, self.num_layers, moment, evidence)
                if all(decision.is_identity for decision in decisions):
                    continue
                with stage("apply"):
                    lifted = prompt.apply(decisions, method)
                    rows[row] = lifted.to(hidden.device).apply(rows[row])
                totals[row] = totals[row].then(lifted)
                renumbered |= method.positions_inside == "renumber"
        if all(total.is_identity for total in totals):
            return hidden
        with stage("apply"):
            self.deepstack = [self._reduce_rows(each, totals, width) for each in self.deepstack]
            hidden = left_padded(rows)
            self.current = self._layer_input(totals, width, hidden, renumbered)
        return hidden

    def _reduce_rows(
        self, batch: Float[Tensor, "b s d"], totals: Sequence[Reduction], width: int
    ) -> Float[Tensor, "b r d"]:
        """Another batch of values, one a token, reduced as the hidden states are."""
        rows = [
            total.to(batch.device).apply(batch[row, width - total.num_inputs :]) for row, total in enumerate(totals)
        ]
        return left_padded(rows)

    def _layer_input(
        self, totals: Sequence[Reduction], width: int, hidden: Float[Tensor, "b r d"], renumbered: bool
    ) -> PaddedLayerInput:
        """What layers read of the LLM's entry from here on."""
        index = left_padded([prompt.columns + self.width - prompt.entry_length for prompt in self.prompts])
        valid = valid_columns([len(prompt.columns) for prompt in self.prompts])
        sized = any(prompt.size is not None for prompt in self.prompts)
        log_size = left_padded([prompt.log_size for prompt in self.prompts]) if sized else None
        if renumbered:
            positions = padded_positions([prompt.positions for prompt in self.prompts])
            for prompt in self.prompts:
                prompt.trace += Trace(rope_recomputed=len(prompt.layout))
            rotary = self.decoder.rotate(hidden, positions.to(hidden.device))
            return PaddedLayerInput(index, valid, positions, rotary, log_size)
        if self.current is None or self.current.positions is None:
            return PaddedLayerInput(index, valid, log_size=log_size)
        # renumbered by an earlier method: columns of what that one made
        left = left_padded([total.anchor + width - total.num_inputs for total in totals])
        rotary = self.current.rotary and _columns(self.current.rotary, left, SEQUENCE_AXIS["position_embeddings"])
        return PaddedLayerInput(index, valid, _columns(self.current.positions, left, -1), rotary, log_size)

    # --- what a layer is given -------------------------------------------------------------------------------------

    def arguments(self, index: int, hidden: Float[Tensor, "b s d"], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Mask, positions and rotary embedding of a layer's own sequence; nothing where it is the entry's."""
        layer_input = self.inputs[index]
        if layer_input is None:
            return {}
        key = id(layer_input)
        if key not in self.prepared:
            self.prepared[key] = self._arguments(layer_input, hidden, kwargs)
        return self.prepared[key]

    def _arguments(
        self, layer_input: PaddedLayerInput, hidden: Float[Tensor, "b s d"], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        kernel: str = self.decoder.module.config._attn_implementation
        index, valid = layer_input.index, layer_input.valid
        if valid is not None and self.step:
            valid = torch.cat([valid, valid.new_ones(len(valid), self.step)], dim=1)
        # in a step the stock mask is as long as the first layer's cache, which may be shorter than the entry
        mask = None if self.step else kwargs["attention_mask"]
        found = {"attention_mask": reduced_mask(mask, index, valid, kernel, hidden)}
        if (sizes := layer_input.log_size) is not None:
            found["attention_mask"] = weighted_mask(found["attention_mask"], sizes, hidden, self.step)
        if layer_input.positions is not None:
            positions = layer_input.positions[..., -1:] + self.step if self.step else layer_input.positions
            rotary = self.decoder.rotate(hidden, positions.to(hidden.device)) if self.step else layer_input.rotary
            return {**found, "position_embeddings": rotary}
        if not self.step:
            for name, axis in SEQUENCE_AXIS.items():
                if kwargs.get(name) is not None:
                    found[name] = _columns(kwargs[name], index, axis)
        if kernel.startswith("flash"):  # which would take gaps in the positions for packed documents
            found["position_ids"] = None
        return found

    def prepare_decoding(self) -> None:
        """When all layers have been read: steps are told what to record, and what every step recomputes is noted."""
        if self.visible:
            self.visible.begin()
        for layer in self.plan.decode_probes:
            self.probes[layer].record = True
        renumbered = {id(each) for each in self.inputs.values() if each is not None and each.positions is not None}
        for prompt in self.prompts:
            prompt.trace += Trace(rope_recomputed_per_step=len(renumbered))

    def gather_caches(self, cache: Any) -> None:
        """Before the first step: caches of some layers keep only what is left of the prompt."""
        for layer in self.plan.gathered_layers:
            lengths = [len(prompt.origins[layer]) for prompt in self.prompts]
            padding = [max(lengths) - length for length in lengths]
            kept = [prompt.gather(layer) + empty for prompt, empty in zip(self.prompts, padding, strict=True)]
            index, valid = left_padded(kept), valid_columns(list(map(len, kept)))
            gather_cache(cache, layer, index)
            read = self.inputs[layer] or PaddedLayerInput(index, valid)
            sizes = None if read.log_size is None else read.log_size.gather(1, index)
            self.inputs[layer] = replace(read, index=index, valid=valid, log_size=sizes)
        self.is_gathered = True

    def decode_attention(self, layer: int) -> Float[Tensor, "b k"] | None:
        """Attention from the token that is decoded to every cached token of a layer, if that is recorded."""
        probe = self.probes.get(layer)
        if probe is None or not probe.queries:
            return None
        query, key, _ = probe.take()
        lengths = [len(prompt.origins[layer]) + self.step for prompt in self.prompts]
        if self.visible:
            self.visible.shown([2 * query.shape[1] * query.shape[3] * length for length in lengths])
        read = self.inputs.get(layer)
        sizes = None if read is None or read.log_size is None else pad(read.log_size, (0, self.step))
        return last_attention(query, key, probe.scaling, valid_columns(lengths), sizes)


_ACTIVE: ContextVar[DecoderHooks | None] = ContextVar("tokenlab_decoder", default=None)


@torch.compiler.disable  # what is compiled around a layer stays so
def _on(handle: Any, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], *output: Any) -> Any:
    """Hands a hook's call to the batch of this context, if there is one."""
    hooks = _ACTIVE.get()
    return None if hooks is None else handle(hooks, index, module, args, kwargs, *output)


@contextmanager
def active_decoder(hooks: DecoderHooks) -> Iterator[None]:
    """While active, the hooks of this context act for one batch."""
    before = _ACTIVE.set(hooks)
    try:
        yield
    finally:
        _ACTIVE.reset(before)


def _columns(value: Any, index: Int[Tensor, "b r"], axis: int) -> Any:
    """Columns of something that has one a token, row by row; one row may stand for all of the batch."""
    if isinstance(value, tuple):
        return tuple(_columns(each, index, axis) for each in value)
    batch_axis = axis - 1
    sizes = list(value.shape)
    sizes[batch_axis] = len(index)
    value, trailing = value.expand(sizes), value.ndim + axis + 1
    where = index.to(value.device).reshape(*index.shape, *[1] * (value.ndim - trailing))
    return value.gather(axis, where.expand(*sizes[:batch_axis], *index.shape, *sizes[trailing:]))
