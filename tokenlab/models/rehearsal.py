"""How many tokens a pipeline leaves, without a model: its methods decide on a medium made of noise.

Only counts are read off, and they are the methods' own, rounding included. A method whose budget follows from what it
sees leaves other counts on another medium: each pipeline is rehearsed on several, and what differs is not a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from tokenlab.compressors.base import (
    BlockView,
    CacheReduction,
    CacheView,
    FrameSelection,
    FrameView,
    GridReduction,
    GridView,
    LayerReduction,
    LayerView,
    TowerReduction,
    seeded_generator,
)
from tokenlab.compressors.evidence import (
    FrameScores,
    LastAttention,
    PoolingAttention,
    ProjectorInput,
    QuestionEmbeddings,
    TokenEmbeddings,
    TowerAttention,
    TowerKeys,
)
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.errors import SampleError, UserError
from tokenlab.models.blocks import TowerCut
from tokenlab.models.geometry import Layout, TowerShape
from tokenlab.models.visual_tokens import num_merged
from tokenlab.tensors import Evidence, VisualTokens

WIDTH = 8  # of hidden states, keys and embeddings: counts do not depend on it
QUESTION_WORDS = 8
AXES: dict[type[Evidence], str] = {
    TowerAttention: "n",
    PoolingAttention: "n",
    TokenEmbeddings: "n d",
    ProjectorInput: "n d",
    TowerKeys: "n d",
    QuestionEmbeddings: "q d",
    FrameScores: "t",
    LastAttention: "s",
}
"""What each kind of evidence is made of: tokens, frames, words, the sequence the LLM reads, a width."""


@dataclass(frozen=True)
class Prompt:
    """The size of a query.

    Attributes:
        layout: The medium that so many frames make.
        frames: Frames there are to choose from.
        text: Text tokens: template, frame markers and question together.
        new_tokens: Tokens of the answer; the first comes out of the prefill.
        num_layers: Layers of the LLM.
        tower: The vision tower, if its frames may lose tokens.
        token_wise: Whether the projector takes tokens one by one, so that they may be merged before it.
    """

    layout: Callable[[int], Layout]
    frames: int
    text: int
    new_tokens: int
    num_layers: int
    tower: TowerShape | None
    token_wise: bool = False


@dataclass(frozen=True)
class Counts:
    """What a pipeline leaves of one query; None for what depends on the video.

    Attributes:
        passes: Passes of the tower.
        tower: For each block in which frames may lose tokens, how many its attention reads, and its MLP.
        projected: Tokens that the projector takes besides all patches, since they were merged before it.
        visual: Visual tokens at the LLM's entry, separators included.
        visual_left: Visual tokens behind the last cut inside the LLM.
        attention: Tokens that each layer's attention reads at prefill; its cache keeps them.
        behind_attention: Tokens left behind each layer's attention.
        cached: For each further token of the answer, how many cached tokens it looks at in each layer.
    """

    passes: int | None
    tower: tuple[tuple[int, int], ...] | None
    projected: int | None
    visual: int | None
    visual_left: int | None
    attention: tuple[int, ...] | None
    behind_attention: tuple[int, ...] | None
    cached: tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True)
class Noise:
    """What a synthetic medium looks like."""

    seed: int
    still: bool
    """Whether all frames are the same."""

    def rows(self, layout: Layout, *width: int) -> Tensor:
        """Noise for each grid token."""
        generator = torch.Generator().manual_seed(self.seed)
        frame, row, column = torch.from_numpy(layout.on_grid).unbind(1)
        size = layout.grid
        drawn = torch.randn((1 if self.still else size[0], *size[1:], *width), generator=generator)
        return drawn[torch.zeros_like(frame) if self.still else frame, row, column]

    def draw(self, *shape: int) -> Tensor:
        """Noise of any other shape."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))


MEDIA = (Noise(0, still=False), Noise(1, still=False), Noise(2, still=True))


def rehearse(pipeline: Pipeline, prompt: Prompt) -> Counts:
    """What a pipeline leaves of a query; raises UserError if it cannot act on one of this size."""
    played = [_Rehearsal(pipeline, prompt, noise).play() for noise in MEDIA]
    values = {field.name: [getattr(counts, field.name) for counts in played] for field in fields(Counts)}
    return Counts(**{name: each[0] if each == each[:1] * len(each) else None for name, each in values.items()})


class _Rehearsal:
    """One pipeline on one synthetic medium."""

    def __init__(self, pipeline: Pipeline, prompt: Prompt, noise: Noise) -> None:
        self.pipeline, self.prompt, self.noise = pipeline, prompt, noise
        self.before = min(1, prompt.text - 1)  # text before the medium; the question follows

    def play(self) -> Counts:
        """The stages in the order of the walk."""
        layout = self.prompt.layout(self._frames())
        tokens = VisualTokens(
            self.noise.rows(layout, WIDTH), torch.from_numpy(layout.on_grid), layout.grid, self._evidence(layout)
        )
        cut = self._tower(layout)
        tokens = tokens if cut is None else tokens.reduce(cut.reduction)
        projected = 0
        for method in self.pipeline.at(GridReduction):
            view = GridView(tokens, "", self._generator(method.name))
            reduction = self._ask(method, lambda view=view, method=method: method.reduce_grid(view))
            if self.prompt.token_wise and method.merges_before_projector:
                projected += num_merged(reduction)
            tokens = tokens.reduce(reduction)
        text = self.prompt.text + layout.num_tokens - len(layout.on_grid)  # separators stay, as text does
        attention, behind = self._layers(tokens, text)
        return Counts(
            passes=layout.passes,
            tower=cut.tokens if cut else (),
            projected=projected,
            visual=tokens.num_tokens + text - self.prompt.text,
            visual_left=behind[-1] - self.prompt.text,
            attention=attention,
            behind_attention=behind,
            cached=self._decode(attention, text),
        )

    def _frames(self) -> int:
        frames = self.prompt.frames
        for method in self.pipeline.at(FrameSelection):
            evidence = self._of_request({"t": frames, "q": QUESTION_WORDS, "d": WIDTH})
            seconds = torch.arange(frames, dtype=torch.float64)
            view = FrameView(frames, seconds, "", evidence, self._generator(method.name))
            frames = self._ask(method, lambda view=view, method=method: method.select_frames(view)).num_outputs
        return frames

    def _tower(self, layout: Layout) -> TowerCut | None:
        """What a method inside the tower leaves."""
        methods, shape = self.pipeline.at(TowerReduction), self.prompt.tower
        if not methods:
            return None
        (method,) = methods
        assert shape is not None, "the family refuses such a method"
        frames, left = layout.passes, shape.protected + len(layout.on_grid) // layout.passes
        state, size = None, torch.ones(frames, left)
        reductions, lengths = [], []
        for block in range(shape.read):
            view = BlockView(
                layer=block,
                num_layers=shape.read,
                hidden=self.noise.draw(frames, left, WIDTH),
                keys=self.noise.draw(frames, left, 1, WIDTH),
                size=size,
                patches=shape.protected + len(layout.on_grid) // frames,
                protected=shape.protected,
                generator=self._generator(method.name),
            )
            reduction, state = self._ask(
                method, lambda view=view, method=method, state=state: method.reduce_block(view, state)
            )
            size = reduction.check().apply(size.flatten(), "sum").unflatten(0, (frames, -1))
            lengths.append((left, size.shape[1]))
            reductions.append(reduction)
            left = size.shape[1]
        return TowerCut(method, frames, shape.protected, shape.depth, tuple(reductions), tuple(lengths))

    def _layers(self, tokens: VisualTokens, text: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Lengths of the sequence at each layer's attention, and behind it."""
        methods = self.pipeline.at(LayerReduction)
        states: list[Any] = [None] * len(methods)
        points = [set(method.points(self.prompt.num_layers)) for method in methods]
        initial, lengths = tokens.num_tokens, {}
        for layer in range(self.prompt.num_layers):
            for moment in ("before_attention", "after_attention"):
                for place, method in enumerate(methods):
                    if (layer, moment) not in points[place]:
                        continue
                    view = self._layer_view(tokens, text, layer, moment, initial, method.name)
                    reduction, states[place] = self._ask(
                        method, lambda view=view, m=method, state=states[place]: m.reduce_layer(view, state)
                    )
                    tokens = tokens.reduce(reduction.check())
                lengths[layer, moment] = tokens.num_tokens + text
        attention, behind = (
            tuple(lengths[layer, moment] for layer in range(self.prompt.num_layers))
            for moment in ("before_attention", "after_attention")
        )
        return attention, behind

    def _layer_view(
        self, tokens: VisualTokens, text: int, layer: int, moment: Any, initial: int, method: str
    ) -> LayerView:
        visual = torch.arange(self.before, self.before + tokens.num_tokens)
        length = tokens.num_tokens + text
        hidden = self.noise.draw(length, WIDTH)
        hidden[visual] = tokens.values
        return LayerView(
            layer=layer,
            num_layers=self.prompt.num_layers,
            moment=moment,
            hidden=hidden,
            visual=visual,
            places=tokens.places,
            tag=tokens.tag,
            initial=initial,
            text_after=(length - (self.prompt.text - self.before), length),
            evidence={
                **tokens.evidence,
                **self._of_request({"s": length, "t": tokens.grid[0], "q": QUESTION_WORDS, "d": WIDTH}),
            },
            generator=self._generator(method),
        )

    def _decode(self, prefilled: Sequence[int], text: int) -> tuple[tuple[int, ...], ...]:
        """Cached tokens that each further token looks at, by layer."""
        methods = self.pipeline.at(CacheReduction)
        states: list[Any] = [None] * len(methods)
        layers = self.prompt.num_layers
        points = [set(method.cache_layers(layers)) for method in methods]
        steps = []
        for step in range(1, self.prompt.new_tokens):
            hidden = 0  # visual tokens out of this step's sight, from some layer on
            seen = []
            for layer in range(layers):
                for place, method in enumerate(methods):
                    if layer in points[place]:
                        visual = max(1, prefilled[layer] - text - hidden)
                        view = self._cache_view(layer, step, visual, prefilled[layer] + step - hidden, method.name)
                        reduction, states[place] = self._ask(
                            method, lambda view=view, m=method, state=states[place]: m.reduce_cache(view, state)
                        )
                        hidden += visual - reduction.check().num_outputs
                seen.append(prefilled[layer] + step - 1 - hidden)
            steps.append(tuple(seen))
        return tuple(steps)

    def _cache_view(self, layer: int, step: int, visual: int, length: int, method: str) -> CacheView:
        return CacheView(
            layer=layer,
            num_layers=self.prompt.num_layers,
            step=step,
            visual=torch.arange(self.before, self.before + visual),
            evidence=self._of_request({"s": length, "q": QUESTION_WORDS, "d": WIDTH}, salt=step),
            generator=self._generator(method),
        )

    def _evidence(self, layout: Layout) -> dict[Evidence, Tensor]:
        """Everything some method asks about the medium or the question."""
        per_token = {
            need: _as_scores(need, self.noise.rows(layout, *([WIDTH] if "d" in _axes(need) else [])))
            for need in self.pipeline.needs()
            if need.per_token
        }
        return {**per_token, **self._of_request({"t": layout.grid[0], "q": QUESTION_WORDS, "d": WIDTH})}

    def _of_request(self, sizes: Mapping[str, int], salt: int = 0) -> dict[Evidence, Tensor]:
        """The evidence that is not about single tokens, as far as these sizes make it."""
        noise = self.noise if self.noise.still else replace(self.noise, seed=self.noise.seed + 1000 * salt)
        return {
            need: _as_scores(need, noise.draw(*(sizes[axis] for axis in _axes(need))))
            for need in self.pipeline.needs()
            if not need.per_token and set(_axes(need)) <= sizes.keys()
        }

    def _ask(self, method: Any, decide: Callable[[], Any]) -> Any:
        """A method's decision; what it refuses becomes one line."""
        try:
            return decide()
        except (ValueError, SampleError) as error:
            raise UserError(f"{method.name} cannot act on a medium of this size: {error}") from error

    def _generator(self, method: str) -> torch.Generator:
        return seeded_generator(self.noise.seed, method, "profile")


def _axes(need: Evidence) -> list[str]:
    if type(need) not in AXES:
        raise UserError(f"profile cannot make up {need}, which a compressor asks for")
    return AXES[type(need)].split()


def _as_scores(need: Evidence, noise: Tensor) -> Tensor:
    """Attention and scores are positive, and a few are large."""
    return noise if "d" in _axes(need) else noise.exp() / noise.shape[0]
