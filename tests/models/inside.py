"""An independent reference for what happens inside the LLM: layer by layer, one sample, no cache, no hooks.

Like `reference.py` it imports nothing from `tokenlab.models`. Every answer token comes from a whole new pass over the
prompt and the answer so far; what earlier answer tokens were allowed to see is kept, and masked by hand.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tests.models.by_hand import Checkpoint
from tests.models.reference import Token, edit, shrink
from tokenlab.compressors import Pipeline
from tokenlab.compressors.base import CacheReduction, CacheView, LayerReduction, LayerView, seeded_generator
from tokenlab.compressors.evidence import LastAttention
from tokenlab.tensors import Reduction, VisualTokens


@dataclass
class Inside:
    """One request; `unseen` holds, for each answer token fed back so far, the slots it did not look at."""

    checkpoint: Checkpoint
    pipeline: Pipeline
    uid: str
    seed: int = 0
    unseen: list[set[int]] = field(default_factory=list)
    cache_state: dict[str, Any] = field(default_factory=dict)

    def greedy(self, sequence: list[Token], original: list[Token], tokens: VisualTokens, new_tokens: int) -> list[int]:
        """The answer, until the end of sequence."""
        model, answer = self.checkpoint.model, []
        for _ in range(new_tokens):
            hidden = self.forward([replace(t, deep=list(t.deep)) for t in sequence], original, tokens, answer)
            answer.append(int(model.lm_head(model.model.get_decoder().norm(hidden)).argmax()))
            if answer[-1] == model.generation_config.eos_token_id:
                break
        return answer

    def forward(self, prompt: list[Token], original: list[Token], tokens: VisualTokens, answer: list[int]) -> Tensor:
        """The last token's hidden state behind the last layer."""
        model = self.checkpoint.model
        decoder, eager = model.model.get_decoder(), self.checkpoint.eager.model.get_decoder()
        tail = model.get_input_embeddings()(torch.tensor(answer, dtype=torch.long))
        prompt, tokens = in_order(prompt, tokens)
        initial, states, narrowed = tokens.num_tokens, {}, False
        paid = paid_by_last = None
        for number, (layer, twin) in enumerate(zip(decoder.layers, eager.layers, strict=True)):
            walk = (number, len(decoder.layers), initial, states)
            prompt, tokens, paid = self.cut(prompt, tokens, original, (*walk, "before_attention"), paid)
            if answer and (deciding := self.cache_methods(number, len(decoder.layers))):
                narrowed = True
                if len(self.unseen) < len(answer):
                    self.choose(deciding, prompt, number, len(decoder.layers), len(answer), paid_by_last)
            hidden = torch.cat([torch.stack([token.value for token in prompt]), tail])[None]
            rotary = decoder.rotary_emb(hidden, positions(prompt, len(answer)))
            mask = self.mask(prompt, len(answer), narrowed)
            given = {"position_embeddings": rotary, "attention_mask": mask}
            attended = layer.self_attn(layer.input_layernorm(hidden), **given)[0]
            weights = twin.self_attn(twin.input_layernorm(hidden), **given)[1].mean(1)[0]
            paid, paid_by_last = weights[len(prompt) - 1, : len(prompt)], weights[-1]
            hidden = (hidden + attended)[0]
            set_values(prompt, hidden)
            tail = hidden[len(prompt) :]
            prompt, tokens, paid = self.cut(prompt, tokens, original, (*walk, "after_attention"), paid)
            hidden = torch.cat([torch.stack([token.value for token in prompt]), tail])[None]
            hidden = (hidden + layer.mlp(layer.post_attention_layernorm(hidden)))[0]
            set_values(prompt, hidden)
            tail = hidden[len(prompt) :]
            for token in prompt:
                if token.deep:
                    token.value = token.value + token.deep.pop(0)
        return hidden[-1] if answer else prompt[-1].value

    def cut(self, prompt, tokens, original, where, paid) -> tuple[list[Token], VisualTokens, Tensor | None]:
        """Every method that looks at this point, in order; attention paid earlier stays with the tokens it was paid."""
        layer, num_layers, initial, states, moment = where
        for method in self.pipeline.at(LayerReduction):
            if (layer, moment) not in method.points(num_layers):
                continue
            visual = [i for i, token in enumerate(prompt) if token.slot is not None]
            shown = [i for i, token in enumerate(prompt) if token.run is not None]
            view = LayerView(
                layer=layer,
                num_layers=num_layers,
                moment=moment,
                hidden=torch.stack([token.value for token in prompt]),
                visual=torch.tensor(visual),
                places=tokens.places,
                tag=tokens.tag,
                initial=initial,
                text_after=(shown[-1] + 1, len(prompt)),
                evidence={} if paid is None else {LastAttention(): paid},
                generator=seeded_generator(self.seed, method.name, self.uid),
            )
            reduction, states[method.name] = method.reduce_layer(view, states.get(method.name))
            tokens = replace(tokens, values=torch.stack([prompt[i].value for i in visual]))
            received = {} if paid is None else {tuple(t.home): p for t, p in zip(prompt, paid, strict=True)}
            prompt = edit(prompt, original, tokens, reduction, method.positions, method.separators)
            prompt, tokens = in_order(prompt, shrink(tokens, reduction))
            paid = torch.stack([received[tuple(token.home)] for token in prompt]) if received else None
        return prompt, tokens, paid

    def cache_methods(self, layer: int, num_layers: int) -> list[CacheReduction]:
        return [m for m in self.pipeline.at(CacheReduction) if layer in m.cache_layers(num_layers)]

    def choose(self, methods, prompt, layer, num_layers, step, paid) -> None:
        """What the newest answer token looks at from this layer on."""
        visual = [i for i, token in enumerate(prompt) if token.slot is not None]
        (method,) = methods
        generator = seeded_generator(self.seed, method.name, self.uid)
        view = CacheView(layer, num_layers, step, torch.tensor(visual), {LastAttention(): paid}, generator)
        reduction, state = method.reduce_cache(view, self.cache_state.get(method.name))
        self.cache_state[method.name] = state
        kept = {visual[i] for i in reduction.anchor.tolist()}
        self.unseen.append({i for i in visual if i not in kept})

    def mask(self, prompt: list[Token], fed: int, narrowed: bool) -> Tensor:
        """Causal; where sight is narrowed, every answer token by itself."""
        length = len(prompt) + fed
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        if narrowed:
            for step, unseen in enumerate(self.unseen[:fed]):
                hidden[len(prompt) + step, list(unseen)] = True
        return torch.zeros(length, length).masked_fill(hidden, torch.finfo(torch.float32).min)[None, None]


def in_order(prompt: list[Token], tokens: VisualTokens) -> tuple[list[Token], VisualTokens]:
    """Slots numbered as they stand in the sequence."""
    order = [token.slot for token in prompt if token.slot is not None]
    rank = {slot: place for place, slot in enumerate(order)}
    prompt = [token if token.slot is None else replace(token, slot=rank[token.slot]) for token in prompt]
    return prompt, shrink(tokens, Reduction.keep(torch.tensor(order), tokens.num_tokens))


def set_values(prompt: list[Token], hidden: Tensor) -> None:
    for token, value in zip(prompt, hidden, strict=False):
        token.value = value


def positions(prompt: list[Token], fed: int) -> Tensor:
    """Answer tokens go on counting where the prompt ends, on every axis."""
    last = prompt[-1].position
    rows = [token.position for token in prompt] + [[axis + step for axis in last] for step in range(1, fed + 1)]
    ids = torch.tensor(rows).T
    return ids if len(ids) == 1 else ids[:, None]
