"""An independent reference for what happens inside the LLM: layer by layer, one sample, no cache, no hooks.

Like `reference.py` it imports nothing from `tokenlab.models`. Every answer token comes from a whole new pass over the
prompt and the answer so far; what earlier answer tokens were allowed to see is kept, and masked by hand.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tests.reference.attention import Weights
from tests.reference.families import Checkpoint
from tests.reference.sequence import Token, cut, shrink
from tokenlab.compressors import Pipeline
from tokenlab.compressors.base import SampleNoise
from tokenlab.compressors.evidence import LayerAttention, NormedHidden, StepAttention
from tokenlab.compressors.stages import CacheReduction, CacheView, LayerReduction, LayerView
from tokenlab.reduction import Reduction
from tokenlab.tokens import Evidence, VisualTokens

Media = list[VisualTokens]


@dataclass
class Inside:
    """One request; `unseen` holds, for each answer token fed back so far, what it did not look at."""

    checkpoint: Checkpoint
    pipeline: Pipeline
    uid: str
    seed: int = 0
    unseen: list[set[int]] = field(default_factory=list)
    cache_state: dict[tuple[int, int], Any] = field(default_factory=dict)
    left: set[int] | None = None

    def greedy(
        self, sequence: list[Token], original: list[Token], media: Media, new_tokens: int, forced=()
    ) -> list[Tensor]:
        """The logits of every step of the answer, until the end of sequence."""
        model, answer, steps = self.checkpoint.model, [], []
        sequence = [replace(token, home=list(token.home)) for token in sequence]  # by which each is known from here on
        for _ in range(new_tokens):
            hidden = self.forward([replace(t, deep=list(t.deep)) for t in sequence], original, list(media), answer)
            steps.append(model.lm_head(model.model.get_decoder().norm(hidden)))
            answer.append(next_token(steps, forced))
            if answer[-1] == model.generation_config.eos_token_id:
                break
        return steps

    def forward(
        self, prompt: list[Token], original: list[Token], media: list[VisualTokens], answer: list[int]
    ) -> Tensor:
        """The last token's hidden state behind the last layer."""
        model = self.checkpoint.model
        decoder, eager = model.model.get_decoder(), self.checkpoint.eager.model.get_decoder()
        tail = model.get_input_embeddings()(torch.tensor(answer, dtype=torch.long))
        gathered = self.gathered(len(decoder.layers))
        prompt, media = in_order(prompt, media)
        initial, states, narrowed = [tokens.num_tokens for tokens in media], {}, False
        heard, paid_by_last = {}, None
        for number, (layer, twin) in enumerate(zip(decoder.layers, eager.layers, strict=True)):
            walk = (number, len(decoder.layers), initial, states)
            prompt, media = self.cut(prompt, media, original, (*walk, "before_attention"), heard)
            if answer and (deciding := self.cache_methods(number, len(decoder.layers))):
                narrowed = True
                if len(self.unseen) < len(answer):
                    self.choose(deciding, prompt, media, number, len(decoder.layers), len(answer), paid_by_last)
            hidden = torch.cat([torch.stack([token.value for token in prompt]), tail])[None]
            rotary = decoder.rotary_emb(hidden, positions(prompt, len(answer)))
            mask = self.mask(prompt, len(answer), narrowed)
            if answer and number in gathered:  # whose cache has forgotten what went later
                gone = [i for i, token in enumerate(prompt) if id(token.home) not in self.left]
                mask[..., len(prompt) :, gone] = torch.finfo(torch.float32).min
            given = {"position_embeddings": rotary, "attention_mask": mask}
            attended = layer.self_attn(layer.input_layernorm(hidden), **given)[0]
            paid_by_last = twin.self_attn(twin.input_layernorm(hidden), **given)[1].mean(1)[0, -1]
            heard = self.heard(twin, hidden, rotary, prompt)
            hidden = (hidden + attended)[0]
            set_values(prompt, hidden)
            tail = hidden[len(prompt) :]
            prompt, media = self.cut(prompt, media, original, (*walk, "after_attention"), heard)
            hidden = torch.cat([torch.stack([token.value for token in prompt]), tail])[None]
            hidden = (hidden + layer.mlp(layer.post_attention_layernorm(hidden)))[0]
            set_values(prompt, hidden)
            tail = hidden[len(prompt) :]
            for token in prompt:
                if token.deep:
                    token.value = token.value + token.deep.pop(0)
        self.left = {id(token.home) for token in prompt} if not answer else self.left
        return hidden[-1] if answer else prompt[-1].value

    def gathered(self, num_layers: int) -> set[int]:
        """Layers whose caches forget what goes in later ones."""
        methods = self.pipeline.placed(LayerReduction).values()
        return {layer for method in methods for layer in method.gathered_caches(num_layers)}

    def heard(self, twin, hidden: Tensor, rotary, prompt) -> dict[Evidence, Weights]:
        """The attention of a layer to the prompt, as far as some method asks for it."""
        needs = {need for method in self.pipeline.placed(LayerReduction).values() for need in method.needs()}
        normed, plain = twin.input_layernorm(hidden), (torch.ones_like(rotary[0]), torch.zeros_like(rotary[1]))
        ways = {LayerAttention(): rotary, LayerAttention(rotary=False): plain}
        return {need: Weights.of(twin.self_attn, normed, ways[need], prompt) for need in needs & ways.keys()}

    def evidence(self, method, layer: int, prompt: list[Token], heard) -> dict[Evidence, Any]:
        """What a method is shown of the LLM."""
        decoder, eager = (each.model.get_decoder() for each in (self.checkpoint.model, self.checkpoint.eager))
        hidden, twin = torch.stack([token.value for token in prompt])[None], eager.layers[layer]
        found = {need: weights.after(prompt) for need, weights in heard.items() if need in method.needs()}
        if NormedHidden() in method.needs():
            found[NormedHidden()] = decoder.norm(hidden[0])
        if (need := LayerAttention(layer="next")) in method.needs():  # which are shown it at entries alone
            rotary = decoder.rotary_emb(hidden, positions(prompt, 0))
            found[need] = Weights.of(twin.self_attn, twin.input_layernorm(hidden), rotary, prompt)
        return found

    def cut(self, prompt, media, original, where, heard) -> tuple[list[Token], Media]:
        """Every method that looks at this point, in order; attention paid earlier stays with the tokens it was paid."""
        layer, num_layers, initial, states, moment = where
        for place, method in self.pipeline.placed(LayerReduction).items():
            if (layer, moment) not in method.points(num_layers):
                continue
            shown = [i for i, token in enumerate(prompt) if token.run is not None]
            decisions, media = [], list(media)
            for number, tokens in enumerate(media):
                visual = slots_of(prompt, number)
                if method.temporal and tokens.is_image:
                    decisions.append(Reduction.identity(len(visual)))
                    continue
                view = LayerView(
                    layer=layer,
                    num_layers=num_layers,
                    moment=moment,
                    hidden=torch.stack([token.value for token in prompt]),
                    visual=torch.tensor(visual),
                    medium=tokens,
                    initial=initial[number],
                    text_after=(shown[-1] + 1, len(prompt)),
                    evidence=self.evidence(method, layer, prompt, heard),
                    generator=SampleNoise(self.seed, self.uid).generator(place, number, f"layer {layer}, {moment}"),
                )
                key = place, number
                reduction, states[key] = method.reduce_layer(view, states.get(key))
                media[number] = replace(tokens, values=torch.stack([prompt[i].value for i in visual]))
                decisions.append(reduction)
            for number, reduction in enumerate(decisions):
                inside = replace(method, positions=method.positions_inside)
                prompt, media = cut(prompt, original, media, number, reduction, inside)
            prompt, media = in_order(prompt, media)
        return prompt, media

    def cache_methods(self, layer: int, num_layers: int) -> dict[int, CacheReduction]:
        methods = self.pipeline.placed(CacheReduction).items()
        return {place: method for place, method in methods if layer in method.cache_layers(num_layers)}

    def choose(self, methods, prompt, media, layer, num_layers, step, paid) -> None:
        """What the newest answer token looks at from this layer on."""
        ((place, method),) = methods.items()
        unseen = set()
        for number in sorted({token.medium for token in prompt if token.slot is not None}):
            if method.temporal and media[number].is_image:
                continue
            visual = slots_of(prompt, number)
            point = f"step {step}, layer {layer}"
            generator = SampleNoise(self.seed, self.uid).generator(place, number, point)
            view = CacheView(layer, num_layers, step, torch.tensor(visual), {StepAttention(): paid}, generator)
            key = place, number
            reduction, self.cache_state[key] = method.reduce_cache(view, self.cache_state.get(key))
            kept = {visual[i] for i in reduction.anchor.tolist()}
            unseen |= {id(prompt[i].home) for i in visual if i not in kept}
        self.unseen.append(unseen)

    def mask(self, prompt: list[Token], fed: int, narrowed: bool) -> Tensor:
        """Causal; where sight is narrowed, every answer token by itself."""
        length = len(prompt) + fed
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        if narrowed:
            for step, unseen in enumerate(self.unseen[:fed]):
                hidden[len(prompt) + step, [i for i, token in enumerate(prompt) if id(token.home) in unseen]] = True
        added = torch.tensor([token.size for token in prompt] + [1.0] * fed).log()
        return added.expand(length, length).masked_fill(hidden, torch.finfo(torch.float32).min)[None, None].clone()


def next_token(steps: list[Tensor], forced) -> int:
    """What is fed back after the latest step."""
    return forced[len(steps) - 1] if forced else int(steps[-1].argmax())


def slots_of(prompt: list[Token], medium: int) -> list[int]:
    """Where a medium's tokens are, without its class tokens and newlines."""
    return [i for i, token in enumerate(prompt) if token.slot is not None and token.medium == medium]


def in_order(prompt: list[Token], media: Media) -> tuple[list[Token], Media]:
    """Slots numbered as they stand in the sequence, medium by medium."""
    ordered = []
    for number, tokens in enumerate(media):
        order = [prompt[i].slot for i in slots_of(prompt, number)]
        rank = {slot: place for place, slot in enumerate(order)}
        prompt = [replace(t, slot=rank[t.slot]) if t.medium == number and t.slot is not None else t for t in prompt]
        ordered.append(shrink(tokens, Reduction.keep(torch.tensor(order, dtype=torch.long), tokens.num_tokens)))
    return prompt, ordered


def set_values(prompt: list[Token], hidden: Tensor) -> None:
    for token, value in zip(prompt, hidden, strict=False):
        token.value = value


def positions(prompt: list[Token], fed: int) -> Tensor:
    """Answer tokens go on counting where the prompt ends, on every axis."""
    last = prompt[-1].position
    rows = [token.position for token in prompt] + [[axis + step for axis in last] for step in range(1, fed + 1)]
    ids = torch.tensor(rows).T
    return ids if len(ids) == 1 else ids[:, None]
