"""Runs the methods on random tensors and keeps only the token counts; no model, and no video.

The stages' own drivers run, so that the counts are the methods' own, rounding included. Done on three random media: a
count that differs between them depends on content.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenlab.compressors.base import SampleNoise
from tokenlab.compressors.evidence import LayerAttention
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import FrameSelection, FrameView, PixelReduction, PixelView, Size
from tokenlab.errors import SampleError, UserError, failing_sample
from tokenlab.functional.attention import Attention
from tokenlab.models.costs.vision import MediumShape, ReducibleTower
from tokenlab.models.llm.state import PromptState
from tokenlab.models.llm.visible_tokens import VisibleTokens
from tokenlab.models.vision.grid_stage import grid_trace, reduce_on_grid
from tokenlab.models.vision.tower import TowerReductions, TowerRun, method_in_tower
from tokenlab.tokens import Evidence, VisualTokens
from tokenlab.tokens.sequence import Medium, Prompt, TokenLayout

WIDTH = 8  # of hidden states, keys and embeddings: counts do not depend on it
QUESTION_WORDS = 8


@dataclass(frozen=True)
class QueryShape:
    """The size of a query.

    Attributes:
        medium: The medium that so many frames of a size make.
        frames: Frames there are to choose from.
        size: Height and width of each.
        text: Text tokens: template, frame markers and question together.
        new_tokens: Tokens of the answer; the first comes out of the prefill.
        num_layers: Layers of the LLM.
        tower: The vision tower, if its frames may lose tokens.
        token_wise: Whether the projector takes tokens one by one, so that they may be merged before it.
    """

    medium: Callable[[int, Size], MediumShape]
    frames: int
    size: Size
    text: int
    new_tokens: int
    num_layers: int
    tower: ReducibleTower | None
    token_wise: bool = False


@dataclass(frozen=True)
class TokenCounts:
    """What a pipeline leaves of one query; None for what depends on the video.

    Attributes:
        passes: Passes of the tower.
        grid: Rows and columns of each frame's tokens.
        tower: Per tower block: (tokens into attention, tokens into MLP) of one frame.
        projector: Tokens that the projector takes besides all patches, since they were merged before it.
        visual: Visual tokens at the LLM's entry, separators included.
        visual_left: Visual tokens behind the last cut inside the LLM.
        attention: Tokens that each layer's attention reads at prefill.
        cached: Tokens of the prompt that each layer's cache keeps.
        mlp: Tokens that each layer's MLP reads at prefill.
        visible: For each further token of the answer, how many cached tokens it attends to in each layer.
    """

    passes: int | None
    grid: Size | None
    tower: tuple[tuple[int, int], ...] | None
    projector: int | None
    visual: int | None
    visual_left: int | None
    attention: tuple[int, ...] | None
    cached: tuple[int, ...] | None
    mlp: tuple[int, ...] | None
    visible: tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True)
class SyntheticMedium:
    """A medium of noise.

    Attributes:
        seed: Of the noise.
        is_static: Whether all frames are the same.
    """

    seed: int
    is_static: bool

    def rows(self, shape: MediumShape, *width: int) -> Float[Tensor, "n ..."]:
        """SampleNoise for each grid token."""
        generator = torch.Generator().manual_seed(self.seed)
        frame, row, column = shape.on_grid.unbind(1)
        size = shape.grid
        drawn = torch.randn((1 if self.is_static else size[0], *size[1:], *width), generator=generator)
        return drawn[torch.zeros_like(frame) if self.is_static else frame, row, column]

    def draw(self, *shape: int, salt: int = 0) -> Float[Tensor, "..."]:
        """SampleNoise of any other shape; other noise at each step where the medium moves."""
        seed = self.seed if self.is_static else self.seed + 1000 * salt
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SYNTHETIC_MEDIA = (
    SyntheticMedium(0, is_static=False),
    SyntheticMedium(1, is_static=False),
    SyntheticMedium(2, is_static=True),
)


def dry_run(pipeline: Pipeline, query: QueryShape) -> TokenCounts:
    """Counts what a pipeline leaves of a query; raises UserError if it cannot act on one of this size."""
    try:
        runs = [DryRun(pipeline, query, medium).run() for medium in SYNTHETIC_MEDIA]
    except SampleError as error:
        raise UserError(str(error)) from error
    values = {field.name: [getattr(counts, field.name) for counts in runs] for field in fields(TokenCounts)}
    return TokenCounts(**{name: each[0] if each == each[:1] * len(each) else None for name, each in values.items()})


class DryRun:
    """One pipeline on one synthetic medium."""

    def __init__(self, pipeline: Pipeline, query: QueryShape, medium: SyntheticMedium) -> None:
        self.pipeline, self.query, self.medium = pipeline, query, medium
        self.noise = SampleNoise(medium.seed, "profile")
        self.before = min(1, query.text - 1)  # text before the medium; the question follows
        self.plan = pipeline.layer_plan(query.num_layers)

    def run(self) -> TokenCounts:
        """The stages in the order of the walk."""
        frames = self._select_frames()
        shape = self.query.medium(frames, self._choose_size(frames))
        tower = self._tower(shape)
        values, is_image = self.medium.rows(shape, WIDTH), self.query.frames == 1
        tokens = VisualTokens(values, shape.on_grid, shape.grid, self._evidence(shape), is_image=is_image)
        tokens = tokens if tower is None else tokens.reduce(tower.reduction)
        projector = (lambda rows: rows) if self.query.token_wise else None
        (tokens,), decisions = reduce_on_grid([tokens], "", self.pipeline, self.noise, projector)
        separators = shape.num_tokens - len(shape.on_grid)
        if any(decided.method.separators == "drop" for decided in decisions):
            separators = 0
        state = self._layers(tokens, separators)
        self._decode(state)
        return TokenCounts(
            passes=shape.passes,
            grid=shape.grid[1:],
            tower=tower.tokens if tower else (),
            projector=grid_trace(decisions, self.query.token_wise).projector_tokens,
            visual=tokens.num_tokens + separators,
            visual_left=state.mlp_tokens[-1] - self.query.text,
            attention=tuple(state.attention_tokens),
            cached=tuple(map(len, state.origins)),
            mlp=tuple(state.mlp_tokens),
            visible=state.trace.visible_tokens,
        )

    def _select_frames(self) -> int:
        frames = self.query.frames
        for place, method in self.pipeline.placed(FrameSelection).items():
            evidence = self._of_request({"t": frames, "q": QUESTION_WORDS, "d": WIDTH})
            seconds = torch.arange(frames, dtype=torch.float64)
            view = FrameView(frames, seconds, "", evidence, self.noise.generator(place, 0, "frames"))
            with failing_sample(method.name):
                frames = method.select_frames(view).settle(method.order).num_outputs
        return frames

    def _choose_size(self, frames: int) -> Size:
        size = self.query.size
        for method in self.pipeline.of_stage(PixelReduction):
            with failing_sample(method.name):
                size = method.choose_size(PixelView(size, lambda size: self.query.medium(frames, size).num_tokens))
        return size

    def _tower(self, shape: MediumShape) -> TowerReductions | None:
        """What a method inside the tower leaves."""
        found, tower = method_in_tower(self.pipeline, self.noise, 0), self.query.tower
        if found is None:
            return None
        assert tower is not None, "the family refuses such a method"
        run = TowerRun(*found, tower.protected, tower.read, tower.depth)
        left = tower.protected + len(shape.on_grid) // shape.passes
        for _ in range(tower.read):
            hidden = self.medium.draw(shape.passes, left, WIDTH)
            keys, values = (self.medium.draw(shape.passes, left, 1, WIDTH, salt=salt) for salt in (0, 1))
            received = self.medium.draw(shape.passes, left).abs()
            left = run.reduce(hidden, keys, values, received).shape[1]
        return run.finish()

    def _layers(self, tokens: VisualTokens, separators: int) -> PromptState:
        """A prompt of this medium, so many tokens outside its grid, and the query's text through all layers."""
        state = self._begin(tokens, separators)
        hidden = self.medium.draw(len(state.layout), WIDTH)
        hidden[state.layout.visual(0)] = tokens.values
        for layer in range(self.query.num_layers):
            for moment in ("before_attention", "after_attention"):
                for place in self.plan.points.get((layer, moment), ()):
                    method = self.plan.layer_methods[place]
                    evidence = self._of_llm(method.needs(), len(state.layout))
                    decisions = state.decide(method, place, hidden, layer, self.query.num_layers, moment, evidence)
                    hidden = state.apply(decisions, method).apply(hidden)
                if moment == "before_attention":
                    state.read()
            state.mlp_tokens[layer] = len(state.layout)
        for layer in self.plan.gathered_layers:
            state.gather(layer)
        return state

    def _of_llm(self, needs: Collection[Evidence], tokens: int) -> dict[Evidence, Any]:
        """What a layer method asks for besides the tokens' own evidence, of a sequence of so many tokens."""
        query, key = self.medium.draw(1, tokens, WIDTH), self.medium.draw(1, tokens, WIDTH, salt=1)
        found: dict[Evidence, Any] = {
            need: Attention.of(query, key, 1.0) for need in needs if isinstance(need, LayerAttention)
        }
        return {**found, **{need: self.medium.draw(tokens, WIDTH) for need in needs if need.axes == "s d"}}

    def _begin(self, tokens: VisualTokens, separators: int) -> PromptState:
        """A prompt of the medium behind some text, in one run; the rest of the text follows."""
        ids = torch.zeros(tokens.num_tokens + separators + self.query.text, dtype=torch.long)
        run = torch.arange(self.before, self.before + tokens.num_tokens + separators)
        visual, outside = run.split([tokens.num_tokens, separators])
        markers = (((0, 0), (0, 0)),) * tokens.grid[0]
        prompt = Prompt(ids, (Medium(visual, tokens.places, outside, markers),))
        positions = torch.arange(len(prompt))[None]
        return PromptState(TokenLayout.identity(prompt), positions, [tokens], self.noise)

    def _decode(self, state: PromptState) -> None:
        """All further tokens of the answer; what each attends to is noted in the trace."""
        visible = VisibleTokens([state], self.plan, self.query.num_layers)
        visible.begin()
        for step in range(1, self.query.new_tokens):
            visible.begin_step(step)
            for layer in range(self.plan.first_layer, self.query.num_layers):
                below = len(state.origins[layer - 1]) if layer else 0
                noise = _scores(self.medium.draw(below + step, salt=step))
                visible.choose(layer, noise[None] if layer - 1 in self.plan.decode_probes else None)
            if self.plan.first_layer == self.query.num_layers:  # nothing acts inside the LLM
                visible.end_step()

    def _evidence(self, shape: MediumShape) -> dict[Evidence, Tensor]:
        """Everything some method asks about the medium or the question."""
        per_token = {need: self._rows(need, shape) for need in self.pipeline.needs() if need.per_token}
        return {**per_token, **self._of_request({"t": shape.grid[0], "q": QUESTION_WORDS, "d": WIDTH})}

    def _rows(self, need: Evidence, shape: MediumShape) -> Float[Tensor, "n ..."]:
        return self.medium.rows(shape, WIDTH) if "d" in need.axes else _scores(self.medium.rows(shape))

    def _of_request(self, sizes: Mapping[str, int]) -> dict[Evidence, Tensor]:
        """The evidence that is not about single tokens, as far as these sizes make it."""
        found: dict[Evidence, Tensor] = {}
        for need in self.pipeline.needs():
            axes = need.axes.split()
            if not need.per_token and set(axes) <= sizes.keys():
                noise = self.medium.draw(*(sizes[axis] for axis in axes))
                found[need] = noise if "d" in axes else _scores(noise)
        return found


def _scores(noise: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Attention and scores are positive, and a few are large."""
    return noise.exp() / max(1, noise.shape[0])
