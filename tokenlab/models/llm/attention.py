"""What methods are shown of the LLM's attention: at prefill as handles that compute rows, in a step as one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenlab.compressors.evidence import LayerAttention, NormedHidden
from tokenlab.compressors.pipeline import LATEST, UNROTATED, LayerPlan
from tokenlab.compressors.stages import LayerReduction, Moment
from tokenlab.functional.attention import Attention
from tokenlab.models.counter import MethodWork
from tokenlab.models.hf import AttentionProbe, Decoder
from tokenlab.models.llm.state import PromptState
from tokenlab.tokens import Evidence
from tokenlab.tokens.padding import padded_positions
from tokenlab.trace import Trace


class PrefillAttention:
    """The attention of one batch while it is read; queries and keys are referred to, not copied.

    Args:
        decoder: The LLM.
        prompts: The batch.
        plan: Where the pipeline's methods act.
        probes: By layer, what is asked of its attention module.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[PromptState],
        plan: LayerPlan,
        probes: Mapping[int, AttentionProbe],
    ) -> None:
        self.decoder, self.prompts, self.plan, self.probes = decoder, prompts, plan, probes
        self.layer: int | None = None  # whose attention the prompts hold
        self.unrotated: list[Attention] = []  # of the layer that is about to run

    def before_layer(self, layer: int, hidden: Float[Tensor, "b s d"]) -> None:
        """Makes, at a layer's entry, what is wanted of it without rotary embedding."""
        if layer in self.plan.unrotated_layers:
            rows = zip(own_rows(hidden, self.prompts), self.prompts, strict=True)
            self.unrotated = [self.recompute(layer, row, prompt, UNROTATED) for row, prompt in rows]

    def record(self, layer: int) -> None:
        """Hands the prompts the attention of the layer that has just attended, as far as it is recorded."""
        if self.layer == layer:
            return
        self.layer = layer
        for prompt in self.prompts:
            prompt.attention = {}
        if layer in self.plan.unrotated_layers:
            for prompt, attention in zip(self.prompts, self.unrotated, strict=True):
                prompt.attention[UNROTATED] = attention
        probe = self.probes.get(layer)
        if probe is None or not probe.queries:
            return
        probe.record, parts = False, probe.take()
        for row, prompt in enumerate(self.prompts):
            own = [part[row, :, part.shape[2] - len(prompt.layout) :] for part in parts]
            prompt.attention[LATEST] = _attention(own, probe.scaling, prompt)

    def evidence(
        self, method: LayerReduction, prompt: PromptState, hidden: Float[Tensor, "s d"], layer: int, moment: Moment
    ) -> dict[Evidence, Any]:
        """What a method asks for of the LLM, as far as there is something to show."""
        found: dict[Evidence, Any] = {}
        for need in method.needs():
            if isinstance(need, NormedHidden):
                found[need] = self.decoder.norm(hidden)
            elif isinstance(need, LayerAttention) and need.layer == "next":
                if moment == "before_attention":
                    found[need] = self.recompute(layer, hidden, prompt, need)
            elif need in prompt.attention:
                found[need] = prompt.attention[need].to(hidden.device)
        return found

    def recompute(
        self, layer: int, hidden: Float[Tensor, "s d"], prompt: PromptState, need: LayerAttention
    ) -> Attention:
        """A layer's attention to a prompt at its entry; one prompt at a time, so that its neighbours change nothing."""
        positions = padded_positions([prompt.positions]).to(hidden.device)
        with MethodWork() as work:
            cosine, sine = self.decoder.rotate(hidden[None], positions)
            if not need.rotary:
                cosine, sine = torch.ones_like(cosine), torch.zeros_like(sine)
            parts = self.decoder.projections(layer, self.probes[layer], hidden[None], (cosine, sine))
        prompt.trace += Trace(evidence_flops=work.flops)
        return _attention([part[0] for part in parts], self.probes[layer].scaling, prompt)


def _attention(parts: Sequence[Float[Tensor, "_ s _"]], scaling: float, prompt: PromptState) -> Attention:
    """A prompt's attention in a layer, of its queries, keys and values there, as its tokens weigh now."""
    query, key, value = parts
    return Attention.of(query, key, scaling, value, None if prompt.size is None else prompt.log_size)


def own_rows(hidden: Float[Tensor, "b s d"], prompts: Sequence[PromptState]) -> list[Float[Tensor, "_ d"]]:
    """Each prompt's own part of a left-padded batch."""
    return [row[len(row) - len(prompt.layout) :] for row, prompt in zip(hidden, prompts, strict=True)]


def last_attention(
    query: Float[Tensor, "b h q e"],
    key: Float[Tensor, "b g k e"],
    scaling: float,
    valid: Bool[Tensor, "b k"] | None,
    log_size: Float[Tensor, "b k"] | None = None,
) -> Float[Tensor, "b k"]:
    """Attention from the last token to each; mean over heads, groups of which may share keys. None: all are valid."""
    grouped = query[:, :, -1:].unflatten(1, (key.shape[1], -1)).flatten(2, 3).float()  # groups, heads of a group, e
    scores = grouped @ key.float().transpose(-1, -2) * scaling
    if log_size is not None:
        scores = scores + log_size.to(scores)[:, None, None]
    if valid is not None:
        scores = scores.masked_fill(~valid.to(scores.device)[:, None, None], float("-inf"))
    return scores.softmax(-1).mean((1, 2))
