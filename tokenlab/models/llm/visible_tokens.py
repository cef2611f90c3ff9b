"""What decode steps look at: methods choose among the visual tokens in each layer's cache; the cache itself stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenlab.compressors.evidence import StepAttention
from tokenlab.compressors.pipeline import LayerPlan
from tokenlab.compressors.stages import CacheReduction, CacheView
from tokenlab.errors import failing_sample
from tokenlab.models.counter import MethodWork
from tokenlab.models.hf import KVTransform
from tokenlab.models.llm.state import PromptState
from tokenlab.tokens import Evidence
from tokenlab.tokens.padding import left_padded, valid_columns
from tokenlab.trace import Trace


class VisibleTokens:
    """What the decode steps of one batch look at; the hooks drive it, and so does the dry run.

    Args:
        prompts: The batch.
        plan: Where the pipeline's methods act.
        num_layers: Layers of the LLM.
    """

    def __init__(self, prompts: Sequence[PromptState], plan: LayerPlan, num_layers: int) -> None:
        self.prompts, self.plan, self.num_layers = prompts, plan, num_layers
        self.masked: list[Int[Tensor, " _"]] = []  # by prompt, the untouched prompt's tokens that this step skips

    def begin(self) -> None:
        """Begins decoding: what methods remember from here on can be taken back."""
        self.prefilled = [dict(prompt.states) for prompt in self.prompts]

    def begin_step(self, step: int) -> None:
        """Begins a step, which may look at everything until a method says otherwise."""
        self.step = step
        self.masked = [torch.empty(0, dtype=torch.long) for _ in self.prompts]
        self.flops = [0] * len(self.prompts)
        self.visible: list[list[int]] = [
            [len(origin) + step - 1 for origin in prompt.origins[: self.plan.first_layer]] for prompt in self.prompts
        ]

    def rewind(self) -> None:
        """Lets methods forget the steps so far."""
        for prompt, states in zip(self.prompts, self.prefilled, strict=True):
            prompt.states = dict(states)

    def shown(self, flops: Sequence[int]) -> None:
        """Notes what it took, prompt by prompt, to compute what methods look at in this step."""
        self.flops = [spent + more for spent, more in zip(self.flops, flops, strict=True)]

    def choose(self, index: int, attention: Float[Tensor, "b k"] | None) -> None:
        """Asks the methods what a layer and those above it look at in this step.

        Args:
            index: The layer.
            attention: From the token that is decoded to every cached token of the layer before, if it is recorded.
        """
        places = self.plan.cache_points.get(index, ())
        for row, prompt in enumerate(self.prompts):
            for place in places:
                self._select_visible(row, prompt, place, index, attention)
            skipped = int(torch.isin(prompt.origins[index], self.masked[row]).sum())
            self.visible[row].append(len(prompt.origins[index]) + self.step - 1 - skipped)
        if index == self.num_layers - 1:
            self.end_step()

    def end_step(self) -> None:
        """Notes in each prompt's trace what the step attended to."""
        for prompt, visible, flops in zip(self.prompts, self.visible, self.flops, strict=True):
            prompt.trace += Trace(visible_tokens=(tuple(visible),), step_flops=(flops,))

    def _select_visible(
        self, row: int, prompt: PromptState, place: int, index: int, attention: Float[Tensor, "b k"] | None
    ) -> None:
        """One method's choice for one prompt, medium by medium."""
        method = self.plan.cache_methods[place]
        origin = prompt.origins[index]
        for number, medium in enumerate(prompt.layout.prompt.media):
            if method.temporal and prompt.media[number].is_image:
                continue
            seen = torch.isin(origin, medium.visual) & ~torch.isin(origin, self.masked[row])
            visual = seen.nonzero()[:, 0]
            evidence = {} if attention is None else self._evidence(prompt, attention[row], index)
            with MethodWork() as work:
                kept = self._decide(method, place, prompt, number, index, visual, evidence)
            self.flops[row] += work.flops
            skipped = torch.ones(len(visual), dtype=torch.bool)
            skipped[kept] = False
            self.masked[row] = torch.cat([self.masked[row], origin[visual[skipped]]])

    def _decide(
        self,
        method: CacheReduction,
        place: int,
        prompt: PromptState,
        number: int,
        index: int,
        visual: Int[Tensor, " n"],
        evidence: Mapping[Evidence, Float[Tensor, " s"]],
    ) -> Int[Tensor, " m"]:
        """Which of a medium's cached tokens a method keeps in sight."""
        device = next(iter(evidence.values())).device if evidence else visual.device
        view = CacheView(
            layer=index,
            num_layers=self.num_layers,
            step=self.step,
            visual=visual.to(device),
            evidence=evidence,
            generator=prompt.noise.generator(place, number, f"step {self.step}, layer {index}"),
        )
        key = ("cache", place, number)
        with failing_sample(method.name):
            decision, prompt.states[key] = method.reduce_cache(view, prompt.states.get(key))
            return decision.settle(method.order, len(view.visual)).anchor

    def _evidence(self, prompt: PromptState, attention: Float[Tensor, " k"], index: int) -> dict[Evidence, Tensor]:
        """The attention in the layer before, at the tokens which a layer's cache holds."""
        below = prompt.origins[index - 1]
        own = attention[-(len(below) + self.step) :]
        column = torch.full((len(prompt.layout.prompt),), -1)
        column[below] = torch.arange(len(below))
        where = torch.cat([column[prompt.origins[index]], len(below) + torch.arange(self.step)])
        return {StepAttention(): own[where.to(own.device)]}

    def kv_transform(self, index: int) -> KVTransform | None:
        """Which cached tokens a layer's attention looks at in this step; None: all."""
        if not any(map(len, self.masked)):
            return None
        total = max(len(prompt.origins[index]) for prompt in self.prompts) + self.step
        visible = []
        for prompt, masked in zip(self.prompts, self.masked, strict=True):
            origin = prompt.origins[index]
            kept = (~torch.isin(origin, masked)).nonzero()[:, 0] + total - self.step - len(origin)
            visible.append(torch.cat([kept, torch.arange(total - self.step, total)]))
        return KVTransform(left_padded(visible), valid_columns([len(each) for each in visible]))
