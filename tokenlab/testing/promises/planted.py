"""What a token must have to survive: one that is planted among others that have nothing of it does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from tokenlab.compressors.base import Preference, TokenCompressor
from tokenlab.compressors.evidence import FrameScores, PixelChange, QuestionEmbeddings
from tokenlab.compressors.stages import FrameSelection, GridReduction, GridView, LayerReduction, TowerReduction
from tokenlab.testing.promises.base import Build, expect, promise
from tokenlab.testing.views import WIDTH, frame_view, grid_view, through_layers, through_tower

GRID = (6, 6, 6)
WHERE = (41, 77, 100, 215)
"""Tokens of the grid, none of them in its first frame."""


@promise(TokenCompressor)
def keeps_what_it_prefers(build: Build) -> None:
    """Each preference by itself, wherever in the medium, at the stages that look at such a thing."""
    method: Any = build(0.5)
    for preference in method.prefers:
        looks = False
        for planted in WHERE:
            for stage, survives in _tried(method, preference, planted).items():
                looks = True
                expect(survives, f"the only token that has {preference} does not survive: {planted} of {GRID}, {stage}")
        expect(looks, f"it prefers {preference}, but looks at nothing of the kind")


def _tried(method: Any, preference: Preference, planted: int) -> dict[str, bool]:
    """Whether the planted token survives, at each stage where the method looks at what it was planted by."""
    needs, found = method.needs(), {}
    by_values = preference in ("novelty", "diversity")
    if method.acts_at(FrameSelection) and any(isinstance(need, FrameScores) for need in needs):
        found["frames"] = _among_frames(method, planted)
    if method.acts_at(TowerReduction) and by_values:
        found["tower"] = _in_tower(method, preference, planted)
    on_grid = method.acts_at(GridReduction)
    if on_grid and (by_values or any(need.axes == ("n" if preference == "attention" else "q d") for need in needs)):
        view = planted_view(method, preference, planted)
        found["grid"] = planted in method.reduce_grid(view).anchor.tolist()
    in_layers = method.acts_at(LayerReduction)
    attends = preference == "attention" and any(need.axes == "attention" for need in needs)
    if in_layers and (attends or (by_values and not on_grid)):
        found["layers"] = _in_layers(method, preference, planted)
    return found


def _among_frames(method: FrameSelection, planted: int) -> bool:
    """One frame fits the question, all others equally little."""
    view, frame = frame_view(method, 24), planted % 24
    scores = torch.zeros(24).index_fill(0, torch.tensor(frame), 1.0)
    chosen = method.select_frames(replace(view, evidence=dict.fromkeys(view.evidence, scores)))
    return frame in chosen.anchor.tolist()


def _in_tower(method: TowerReduction, preference: Preference, planted: int) -> bool:
    """One patch differs from all others of the medium; it is to be left as it is, and not merged."""
    frames, (frame, place) = GRID[0], divmod(planted, GRID[1] * GRID[2])
    values = planted_values(method, preference, planted).unflatten(0, (frames, -1))
    for view, reduction in through_tower(method, frames, GRID[1:], 0, 4, values=values):
        at = int((view.places[frame] == place).nonzero()[:, 0]) + frame * view.places.shape[1]
        slot = (reduction.anchor == at).nonzero()[:, 0]
        if len(slot) == 0 or int(reduction.lengths[slot[0]]) > 0:
            return False
    return True


def planted_values(method: TokenCompressor, preference: Preference, planted: int) -> Float[Tensor, "n d"]:
    """Tokens of a video in which nothing moves, or that are all alike; but one, or its whole frame."""
    drawn = torch.Generator().manual_seed(0)
    frames, total = GRID[0], math.prod(GRID)
    different = torch.randn(total // frames, WIDTH, generator=drawn)
    if preference == "novelty":
        values = torch.randn(1, total // frames, WIDTH, generator=drawn).expand(frames, -1, -1).flatten(0, 1)
    else:
        values = torch.ones(total, WIDTH)
    values = values + 0.01 * torch.randn(total, WIDTH, generator=drawn)
    if method.budget_unit == "frames":
        frame = planted // len(different)
        values[frame * len(different) : (frame + 1) * len(different)] = 3 * different
    else:
        values[planted] = different[0].abs()
    return values


def planted_view(method: GridReduction, preference: Preference, planted: int) -> GridView:
    """A medium in which one token alone has what is preferred."""
    view = grid_view(method, GRID)
    values, evidence = view.tokens.values, dict(view.evidence)
    if preference in ("novelty", "diversity"):
        values = planted_values(method, preference, planted)
        evidence |= {need: values for need in evidence if need.axes == "n d"}
        changed = torch.zeros(len(values)).index_fill(0, torch.tensor(planted), 1.0)
        evidence |= {need: changed for need in evidence if isinstance(need, PixelChange)}
    if preference == "attention":
        highest = {
            need: each.index_fill(0, torch.tensor(planted), 10.0) for need, each in evidence.items() if need.axes == "n"
        }
        evidence |= highest
    if preference in ("text", "unlike text"):
        question = normalize(torch.ones(WIDTH), dim=0)
        words = next(need for need in evidence if isinstance(need, QuestionEmbeddings))
        evidence[words] = question.expand_as(evidence[words])
        # all others are at right angles to the question
        across = view.tokens.values - (view.tokens.values @ question)[:, None] * question
        across[planted] += 9 * question * (1 if preference == "text" else -1)
        evidence |= {need: across for need in evidence if need.axes == "n d"}
        values = across if any(value is view.tokens.values for value in view.evidence.values()) else values
    return replace(view, tokens=replace(view.tokens, values=values, evidence=evidence))


def _in_layers(method: LayerReduction, preference: Preference, planted: int) -> bool:
    """All queries point one way, and so does the planted token's key; or its value differs."""

    def attract(
        query: Float[Tensor, "h s d"], key: Float[Tensor, "g s d"], visual: Int[Tensor, " n"], left: Int[Tensor, " n"]
    ) -> None:
        query.abs_()
        key[:, visual[left == planted]] = 5.0

    values = None if preference == "attention" else planted_values(method, preference, planted)
    change, left = attract if preference == "attention" else None, torch.arange(math.prod(GRID))
    for _, reduction in through_layers(method, GRID, values=values, change=change):
        left = left[reduction.anchor]
    return planted in left.tolist()
