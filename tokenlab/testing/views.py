"""What a compressor sees at each stage, made of random tokens: it can be tried without a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from tokenlab.compressors.base import SampleNoise
from tokenlab.compressors.evidence import StepAttention, TokenEmbeddings
from tokenlab.compressors.stages import (
    BlockView,
    CacheReduction,
    CacheView,
    FrameSelection,
    FrameView,
    GridReduction,
    GridView,
    LayerReduction,
    LayerView,
    PixelView,
    TowerReduction,
)
from tokenlab.functional.attention import Attention
from tokenlab.reduction import Reduction
from tokenlab.tokens import Evidence, VisualTokens

Grid = tuple[int, int, int]
WIDTH = 8
"""Of every token."""
QUESTION = 5
"""Words of every question."""
HEADS = 4


def generator_at(point: str, uid: str = "v0#0") -> torch.Generator:
    """What a method draws at one point of one sample."""
    return SampleNoise(0, uid).generator(0, 0, point)


def frame_view(method: FrameSelection, frames: int) -> FrameView:
    """Candidate frames, four a second, with random scores where the method asks for them."""
    drawn = torch.Generator().manual_seed(0)
    evidence = {need: torch.rand(frames, generator=drawn) for need in sorted(method.needs(), key=repr)}
    return FrameView(frames, torch.arange(frames).double() / 4, "what ?", evidence, generator_at(method.name))


def pixel_view(size: tuple[int, int] = (48, 80), patch: int = 8) -> PixelView:
    """A picture of which the model makes a token for every square of so many pixels a side, begun ones left out."""
    return PixelView(size, lambda size: max(1, size[0] // patch) * max(1, size[1] // patch))


def grid_view(method: GridReduction, grid: Grid = (6, 4, 5), seed: int = 0, uid: str = "v0#0") -> GridView:
    """A medium on its token grid, with whatever the method asks for there."""
    drawn = torch.Generator().manual_seed(seed)
    values = torch.randn(*grid, WIDTH, generator=drawn)
    sizes = {"n": math.prod(grid), "t": grid[0], "q": QUESTION, "d": WIDTH}
    evidence: dict[Evidence, Tensor] = {}
    for need in sorted(method.needs(), key=repr):
        axes = need.axes.split()
        if need == TokenEmbeddings():
            evidence[need] = values.flatten(0, 2)
        elif set(axes) <= sizes.keys():
            evidence[need] = torch.rand([sizes[axis] for axis in axes], generator=drawn)
    return GridView(VisualTokens.from_grid(values, evidence), "what ?", generator_at(method.name, uid))


def through_tower(
    method: TowerReduction,
    frames: int = 3,
    grid: tuple[int, int] = (4, 5),
    protected: int = 1,
    num_layers: int = 8,
    dtype: torch.dtype = torch.float32,
    values: Float[Tensor, "t n d"] | None = None,
) -> Iterator[tuple[BlockView, Reduction]]:
    """What the method decides in every block of a tower, each seeing what the one before left, and what it saw.

    Args:
        method: Whose decisions.
        frames: Read together.
        grid: Rows and columns of patches.
        protected: Leading tokens of every frame.
        num_layers: Of the tower.
        dtype: Of what the tower holds.
        values: What tokens are in every block, keys included; drawn in each, if left out.
    """
    drawn = torch.Generator().manual_seed(0)
    size, state = torch.ones(frames, protected + grid[0] * grid[1]), None
    places = BlockView.first_places(frames, grid[0] * grid[1], protected)
    for layer in range(num_layers):
        hidden = torch.randn(*size.shape, WIDTH, generator=drawn) if values is None else values
        keys = torch.randn(*size.shape, 2, 4, generator=drawn) if values is None else values.unflatten(-1, (2, 4))
        view = BlockView(
            layer=layer,
            num_layers=num_layers,
            hidden=hidden.to(dtype),
            keys=keys.to(dtype),
            values=torch.randn(*size.shape, 2, 4, generator=drawn).to(dtype),
            cls_attention=torch.rand(*size.shape, generator=drawn).to(dtype) if method.looks_at_cls else None,
            size=size.to(dtype),
            places=places,
            grid=grid,
            protected=protected,
            generator=generator_at(f"block {layer}"),
        )
        before = view.hidden.clone(), view.keys.clone()
        reduction, state = method.reduce_block(view, state)
        check_untouched(f"block {layer}", before, (view.hidden, view.keys))
        yield view, reduction.check()
        size = reduction.apply(size.flatten(), "sum").reshape(frames, -1)
        places = places.flatten()[reduction.anchor].reshape(frames, -1)
        if values is not None:
            values = reduction.apply(values.flatten(0, 1)).reshape(frames, -1, WIDTH)


def check_untouched(where: str, before: Sequence[Shaped[Tensor, "..."]], now: Sequence[Shaped[Tensor, "..."]]) -> None:
    """Raises ValueError where a method changed in place what it was shown."""
    if not all(map(torch.equal, before, now)):
        raise ValueError(f"{where}: the method changes what it is shown")


Keys = Callable[[Float[Tensor, "h s d"], Float[Tensor, "g s d"]], None]
"""Changes queries and keys in place."""


def of_llm(
    method: LayerReduction, hidden: Float[Tensor, "s d"], drawn: torch.Generator, change: Keys | None = None
) -> dict[Evidence, Any]:
    """Whatever a method asks for of the LLM that reads this sequence; attention is drawn."""
    query, key = torch.randn(2, HEADS, len(hidden), WIDTH, generator=drawn).to(hidden.dtype)
    if change is not None:
        change(query, key[: HEADS // 2])
    value = torch.randn(HEADS // 2, len(hidden), WIDTH, generator=drawn).to(hidden.dtype)
    attention = Attention.of(query, key[: HEADS // 2], WIDTH**-0.5, value)
    found: dict[Evidence, Any] = {need: attention for need in method.needs() if need.axes == "attention"}
    return {**found, **{need: hidden for need in method.needs() if need.axes == "s d"}}


def through_layers(
    method: LayerReduction,
    grid: Grid = (4, 3, 4),
    num_layers: int = 6,
    dtype: torch.dtype = torch.float32,
    values: Float[Tensor, "n d"] | None = None,
    change: Callable[[Float[Tensor, "h s d"], Float[Tensor, "g s d"], Tensor, Tensor], None] | None = None,
) -> Iterator[tuple[LayerView, Reduction]]:
    """What the method decides of one medium between texts, in an LLM whose layers do nothing, and what it saw.

    Args:
        method: Whose decisions.
        grid: Of the medium.
        num_layers: Of the LLM.
        dtype: Of what the LLM holds.
        values: The medium's tokens; drawn, if left out.
        change: Changes queries and keys, given where visual tokens stand in the sequence and which of them each is.
    """
    drawn = torch.Generator().manual_seed(0)
    before, after, initial = 5, 6, math.prod(grid)
    places = torch.cartesian_prod(*(torch.arange(size) for size in grid)).reshape(-1, 3)
    left = torch.arange(initial)
    if values is None:
        values = torch.randn(initial, WIDTH, generator=drawn)
    values, state, tag = values.to(dtype), None, None
    for layer, moment in method.points(num_layers):
        length = before + len(left) + after
        visual = torch.arange(before, length - after)
        text = torch.randn(before + after, WIDTH, generator=drawn).to(dtype)
        hidden = torch.cat([text[:before], values, text[before:]])
        edit = None if change is None else lambda query, key, visual=visual, left=left: change(query, key, visual, left)
        view = LayerView(
            layer=layer,
            num_layers=num_layers,
            moment=moment,
            hidden=hidden,
            visual=visual,
            medium=VisualTokens(values[:, :0], places[left], grid, tag=tag),
            initial=initial,
            text_after=(length - after, length),
            evidence=of_llm(method, hidden, drawn, edit),
            generator=generator_at(f"layer {layer}"),
        )
        seen = view.hidden.clone()
        reduction, state = method.reduce_layer(view, state)
        check_untouched(f"layer {layer}", (seen,), (view.hidden,))
        yield view, reduction.settle(method.order)
        values, left = reduction.apply(values), left[reduction.anchor]
        tag = reduction.tag if reduction.tag is not None else None if tag is None else tag[reduction.anchor]


def through_steps(
    method: CacheReduction, visual: int = 30, num_layers: int = 6, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[CacheView, Reduction]]:
    """What the method decides in five decode steps over a growing cache, and what it saw."""
    drawn, state = torch.Generator().manual_seed(0), None
    for step in range(1, 6):
        for layer in method.cache_layers(num_layers):
            attention = torch.rand(10 + visual + step, generator=drawn).to(dtype)
            evidence: dict[Evidence, Tensor] = {
                need: attention for need in method.needs() if isinstance(need, StepAttention)
            }
            view = CacheView(
                layer,
                num_layers,
                step,
                torch.arange(4, 4 + visual),
                evidence,
                generator_at(f"layer {layer}, step {step}"),
            )
            reduction, state = method.reduce_cache(view, state)
            yield view, reduction.settle(method.order)


def decisions(method: Any, dtype: torch.dtype = torch.float32) -> list[Reduction]:
    """What a method decides, wherever it acts, on the same random tokens each time."""
    found: list[Reduction] = []
    if method.acts_at(FrameSelection):
        found.append(method.select_frames(frame_view(method, 12)))
    if method.acts_at(TowerReduction):
        found += [reduction for _, reduction in through_tower(method, dtype=dtype)]
    if method.acts_at(GridReduction):
        found.append(method.reduce_grid(cast(grid_view(method), dtype)))
    if method.acts_at(LayerReduction):
        found += [reduction for _, reduction in through_layers(method, dtype=dtype)]
    if method.acts_at(CacheReduction):
        found += [reduction for _, reduction in through_steps(method, dtype=dtype)]
    return found


def cast(view: GridView, dtype: torch.dtype) -> GridView:
    """The same tokens and evidence in another precision."""
    tokens = view.tokens
    evidence = {need: value.to(dtype) for need, value in tokens.evidence.items()}
    return GridView(
        VisualTokens(tokens.values.to(dtype), tokens.places, tokens.grid, evidence, tag=tokens.tag),
        view.question,
        view.generator,
    )
