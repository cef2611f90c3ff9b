"""One prompt on its way through the LLM: what is left of it, and what is cut together with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenlab.compressors.base import CacheReduction, LayerReduction, LayerView, Moment, State
from tokenlab.compressors.evidence import LastAttention
from tokenlab.models.arrangement import TEXT, Move, advance, in_order
from tokenlab.models.entry import Rewrite
from tokenlab.tensors import Reduction, Step, VisualTokens

LAST_ATTENTION = LastAttention()
Generators = Callable[[str], torch.Generator]


@dataclass
class Passage:
    """One prompt on its way through the LLM.

    Attributes:
        rewrite: What the LLM's entry made of it.
        media: For each medium the tokens which are left, in the order of the sequence.
        layer_methods: What cuts between layers, in order.
        cache_methods: What narrows the sight of decode steps, in order.
        generator: Fresh noise for a method, by its name.
        steps: The reductions applied so far.
        attention: Tokens that each layer's attention has read at prefill.
        behind: Tokens that were left behind each layer's attention.
        sight: For each decode step, how many cached tokens each layer's attention looked at.
        rotated: Tokens whose rotary embedding was computed anew, at other positions: at prefill, and at each step.
    """

    rewrite: Rewrite
    media: list[VisualTokens]
    layer_methods: tuple[LayerReduction, ...]
    cache_methods: tuple[CacheReduction, ...]
    generator: Generators
    steps: list[Step] = field(default_factory=list)
    attention: list[int] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)
    sight: list[tuple[int, ...]] = field(default_factory=list)
    rotated: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Nothing is cut yet."""
        self.arrangement, slots = in_order(self.rewrite.arrangement)
        self.media = [_reordered(tokens, order) for tokens, order in zip(self.media, slots, strict=True)]
        self.initial = [tokens.num_tokens for tokens in self.media]
        self.sources: list[Int[np.ndarray, " s"]] = []  # what each layer's cache holds of the untouched prompt
        self.states: dict[tuple[str, int], State] = {}

    def visual(self, medium: int) -> Int[np.ndarray, " n"]:
        """Where a medium's tokens are in the sequence, ascending."""
        return np.nonzero(self.arrangement.medium == medium)[0]

    def text_after(self) -> tuple[int, int]:
        """The span of the text behind the last medium; only asked where there is one."""
        visual = np.nonzero(self.rewrite.prompt.run[self.arrangement.source] != TEXT)[0]
        return int(visual[-1]) + 1, len(self.arrangement)

    def look(
        self, method: LayerReduction, layer: int, num_layers: int, moment: Moment, riders: Riders
    ) -> list[Reduction]:
        """What a method decides about each medium."""
        decisions, device = [], riders.hidden.device
        self.media = [tokens.to(device) for tokens in self.media]
        for medium, tokens in enumerate(self.media):
            evidence = dict(tokens.evidence)
            if riders.attention is not None:
                evidence[LAST_ATTENTION] = riders.attention
            view = LayerView(
                layer=layer,
                num_layers=num_layers,
                moment=moment,
                hidden=riders.hidden,
                visual=torch.from_numpy(self.visual(medium)).to(device),
                places=tokens.places,
                tag=tokens.tag,
                initial=self.initial[medium],
                text_after=self.text_after(),
                evidence=evidence,
                generator=self.generator(method.name),
            )
            reduction, self.states[method.name, medium] = method.reduce_layer(
                view, self.states.get((method.name, medium))
            )
            decisions.append(reduction.check().to(device))
            self.steps.append(Step("layers", method.name, medium, reduction, layer))
        return decisions

    def cut(self, method: LayerReduction, decisions: Sequence[Reduction], riders: Riders) -> Riders:
        """Carries a method's decisions out on the sequence and on all that rides along."""
        before = [self.visual(medium) for medium in range(len(self.media))]
        move = Move(tuple(decisions), method.positions, method.separators)
        self.arrangement, slots = in_order(advance(self.rewrite.prompt, self.arrangement, move))
        chosen, _ = self.arrangement.edits[-1]
        riders = riders.choose(chosen)
        for medium, (decision, order) in enumerate(zip(decisions, slots, strict=True)):
            if decision.merges:
                riders.merge(decision, before[medium], self.visual(medium), order)
            self.media[medium] = _reordered(self.media[medium].reduce(decision), order)
        return riders


def _reordered(tokens: VisualTokens, order: Int[np.ndarray, " n"]) -> VisualTokens:
    """All the tokens, in another order."""
    return tokens.reduce(Reduction.keep(torch.from_numpy(order).to(tokens.values.device), tokens.num_tokens))


@dataclass
class Riders:
    """What is cut together: one prompt's hidden states, what later layers will add to them, and who attends to them."""

    hidden: Float[Tensor, "s d"]
    added: list[Float[Tensor, "s d"]]
    attention: Float[Tensor, " s"] | None
    column: Int[np.ndarray, " s"]  # where each token stood in the padded batch before the cut
    original: Riders | None = None  # as it was before the latest method

    def choose(self, index: Int[np.ndarray, " m"]) -> Riders:
        """The tokens of an index; what is merged comes later."""
        where = torch.from_numpy(index).to(self.hidden.device)
        attention = None if self.attention is None else self.attention[where]
        return Riders(self.hidden[where], [x[where] for x in self.added], attention, self.column[index], self)

    def merge(self, reduction: Reduction, before: np.ndarray, after: np.ndarray, order: np.ndarray) -> None:
        """Writes merged values: the medium's tokens were at `before` and are at `after`, in this order of slots."""
        assert self.original is not None
        old, new, slots = (torch.from_numpy(x).to(self.hidden.device) for x in (before, after, order))
        for mine, source in zip([self.hidden, *self.added], [self.original.hidden, *self.original.added], strict=True):
            mine[new] = reduction.apply(source[old])[slots]
