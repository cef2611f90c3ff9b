"""One prompt on its way through the LLM: what is left of it, and what methods remember."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenlab.compressors.base import SampleNoise, State
from tokenlab.compressors.stages import LayerReduction, LayerView, Moment
from tokenlab.errors import failing_sample
from tokenlab.functional.attention import Attention
from tokenlab.models.counter import MethodWork
from tokenlab.reduction import Reduction
from tokenlab.tokens import Evidence, VisualTokens
from tokenlab.tokens.sequence import TokenLayout
from tokenlab.trace import AppliedReduction, Trace


@dataclass
class PromptState:
    """One prompt on its way through the LLM.

    Attributes:
        layout: Which tokens are left of which untouched prompt.
        original_positions: Position ids of the untouched prompt.
        media: The tokens that are left of each medium, without their values, which are stale inside the LLM.
        noise: Of its sample.
        left: For each medium, what all reductions leave of its token grid.
        trace: What was done so far inside the LLM.
        states: What methods remember, by their stage, their place in the pipeline, and medium.
        size: Tokens that each stands for, since a method's cut that weighs by that; None: none does.
        attention: Of the layer that attended last, as far as some method looks at it.
        origins: By layer, the untouched prompt's index of each token in the layer's cache.
        attention_tokens: By layer, tokens that its attention reads.
        mlp_tokens: By layer, tokens that its MLP reads.
    """

    layout: TokenLayout
    original_positions: Int[Tensor, "axes l"]
    media: list[VisualTokens]
    noise: SampleNoise
    left: list[Reduction] = field(default_factory=list)
    trace: Trace = field(default_factory=Trace)
    states: dict[tuple[str, int, int], State] = field(default_factory=dict)
    size: Float[Tensor, " s"] | None = None
    attention: dict[Evidence, Attention] = field(default_factory=dict)
    origins: list[Int[Tensor, " _"]] = field(default_factory=list)
    attention_tokens: list[int] = field(default_factory=list)
    mlp_tokens: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing is reduced inside the LLM yet."""
        self.media = [replace(tokens, values=tokens.values[:, :0]) for tokens in self.media]
        self.left = self.left or [Reduction.identity(tokens.num_tokens) for tokens in self.media]
        self.initial = [tokens.num_tokens for tokens in self.media]
        self.entry_length = len(self.layout)
        self.columns = torch.arange(self.entry_length)  # of the tokens that are left, among the entry's

    @property
    def positions(self) -> Int[Tensor, "axes s"]:
        """Position ids of what is left."""
        return self.layout.positions(self.original_positions)

    @property
    def log_size(self) -> Float[Tensor, " s"]:
        """What is added to the logits of what is left; nothing where no method weighs by size."""
        return torch.zeros(len(self.layout)) if self.size is None else self.size.log()

    def read(self, layers: int = 1) -> None:
        """Notes what is left now as what the next layers read."""
        self.origins += [self.layout.origin] * layers
        self.attention_tokens += [len(self.layout)] * layers
        self.mlp_tokens += [len(self.layout)] * layers

    def gather(self, layer: int) -> Int[Tensor, " _"]:
        """Lets a layer's cache keep only what is left now; returns where in the cache that is."""
        kept = torch.isin(self.origins[layer], self.layout.origin).nonzero()[:, 0]
        self.origins[layer] = self.origins[layer][kept]
        return kept

    def decide(
        self,
        method: LayerReduction,
        place: int,
        hidden: Float[Tensor, "s d"],
        layer: int,
        num_layers: int,
        moment: Moment,
        evidence: Mapping[Evidence, Any],
    ) -> list[Reduction]:
        """Asks a method about every medium.

        Args:
            method: The method.
            place: Its place in the pipeline.
            hidden: The sequence at this point.
            layer: The layer.
            num_layers: Layers of the LLM.
            moment: Where in the layer.
            evidence: What the LLM shows the method here.
        """
        decisions = []
        for number, tokens in enumerate(self.media):
            work = MethodWork()
            if method.temporal and tokens.is_image:
                decisions.append(Reduction.identity(tokens.num_tokens))
            else:
                tokens = tokens.to(hidden.device)
                view = LayerView(
                    layer=layer,
                    num_layers=num_layers,
                    moment=moment,
                    hidden=hidden,
                    visual=self.layout.visual(number).to(hidden.device),
                    medium=tokens,
                    initial=self.initial[number],
                    text_after=self.layout.text_after(),
                    evidence={**tokens.evidence, **evidence},
                    generator=self.noise.generator(place, number, f"layer {layer}, {moment}"),
                )
                key = ("layers", place, number)
                with failing_sample(method.name), work:
                    decision, self.states[key] = method.reduce_layer(view, self.states.get(key))
                    decisions.append(decision.settle(method.order, tokens.num_tokens))
            drops = method.separators == "drop"
            applied = AppliedReduction("layers", method.name, number, decisions[-1], layer, drops, work.flops)
            self.trace += Trace(reductions=(applied,))
        return decisions

    def apply(self, decisions: Sequence[Reduction], method: LayerReduction) -> Reduction:
        """Carries decisions out on the layout and all that goes with it; returns them as one, for the sequence."""
        ordered = []
        for number, decision in enumerate(decisions):
            ordered.append(self.layout.in_runs(decision, number)[0])
        for number, decision in enumerate(ordered):
            self.media[number] = self.media[number].reduce(decision)
            self.left[number] = self.left[number].then(decision.to("cpu"))
        lifted = self.layout.lift(ordered, method.separators)
        self.layout = self.layout.reduce(lifted, method.positions_inside == "renumber")
        self.columns = self.columns[lifted.anchor]
        if method.proportional_attention and self.size is None:
            self.size = torch.ones(lifted.num_inputs)
        if self.size is not None:
            self.size = lifted.apply(self.size, "sum")
        self.attention = {need: attention.keep(lifted.anchor) for need, attention in self.attention.items()}
        return lifted


def llm_trace(state: PromptState | None, generated: int, left: Sequence[Reduction] = ()) -> Trace:
    """What happened to one prompt inside the LLM, for so many tokens of its answer.

    Args:
        state: The prompt, if methods acted there.
        generated: Tokens of the answer.
        left: What reductions before the LLM left of its media.
    """
    if state is None:
        return Trace(generated_tokens=generated, left=tuple(left))
    steps = generated - 1
    trace = replace(
        state.trace, visible_tokens=state.trace.visible_tokens[:steps], step_flops=state.trace.step_flops[:steps]
    )
    return trace + Trace(
        generated_tokens=generated,
        left=tuple(state.left),
        attention_tokens=tuple(state.attention_tokens),
        cached_tokens=tuple(map(len, state.origins)),
        mlp_tokens=tuple(state.mlp_tokens),
    )
