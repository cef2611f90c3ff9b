"""Reduced prompts as data: kept ids, their positions and features, which stock `generate` takes as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenlab.models.vision.encode import Encoded
from tokenlab.models.vision.grid_stage import Decisions
from tokenlab.reduction import Reduction
from tokenlab.tokens import VisualTokens
from tokenlab.tokens.sequence import Prompt, TokenLayout


@dataclass(frozen=True)
class ReducedPrompt:
    """One prompt as the LLM reads it.

    Attributes:
        layout: Which tokens are left of which untouched prompt.
        encoded: Its media behind tower and projector.
        features: For each medium, a row a placeholder that is left, in the order of the sequence.
        deepstack: The same for every LLM layer that adds features of further tower layers.
        media: The tokens that are left of each medium, in the order of the sequence.
        positions: Position ids of what is left; None: the model's own, of an untouched prompt.
        original_positions: Position ids of the untouched prompt.
        totals: For each medium, all reductions as one, slots in the order of the sequence. Empty: there are none.
    """

    layout: TokenLayout
    encoded: tuple[Encoded, ...]
    features: tuple[Float[Tensor, "_ d"], ...]
    deepstack: tuple[list[Float[Tensor, "_ d"]], ...]
    media: tuple[VisualTokens, ...] = ()
    positions: Int[Tensor, "axes s"] | None = None
    original_positions: Int[Tensor, "axes l"] | None = None
    totals: tuple[Reduction, ...] = ()


def full_prompt(prompt: Prompt, encoded: Sequence[Encoded]) -> ReducedPrompt:
    """The untouched prompt, at positions that the model finds by itself."""
    features, deepstack = tuple(each.rows for each in encoded), tuple(each.deepstack for each in encoded)
    return ReducedPrompt(TokenLayout.identity(prompt), tuple(encoded), features, deepstack)


def reduced_prompt(
    prompt: Prompt,
    encoded: Sequence[Encoded],
    media: Sequence[VisualTokens],
    decisions: Decisions,
    positions: Int[Tensor, "axes l"],
) -> ReducedPrompt:
    """The prompt that a pipeline's decisions before the LLM leave.

    Args:
        prompt: The untouched prompt.
        encoded: Its media behind tower and projector.
        media: The tokens that the decisions leave.
        decisions: The decisions of methods in the tower and on the grid.
        positions: The model's own position ids of the untouched prompt.
    """
    layout = TokenLayout.identity(prompt)
    orders = [torch.arange(len(medium.visual)) for medium in prompt.media]  # which slot stands where in the sequence
    totals = [Reduction.identity(len(medium.visual)) for medium in prompt.media]
    for decided in decisions:
        method = decided.method
        if all(decision.is_identity for decision in decided.reductions):
            continue
        in_sequence = []
        for number, decision in enumerate(decided.reductions):
            standing = Reduction.cat([(decision, orders[number].argsort())], decision.num_inputs)
            standing, orders[number] = layout.in_runs(standing, number)
            in_sequence.append(standing)
        layout = layout.reduce(layout.lift(in_sequence, method.separators), method.positions == "renumber")
        totals = [total.then(decision) for total, decision in zip(totals, in_sequence, strict=True)]
    media = [each.reduce(Reduction.keep(order, each.num_tokens)) for each, order in zip(media, orders, strict=True)]
    features, deepstack = [], []
    for number, each in enumerate(encoded):
        rows, added = _features(layout, number, each, media[number], totals[number])
        features.append(rows)
        deepstack.append(added)
    left = _without_packing(layout.positions(positions))
    return ReducedPrompt(
        layout, tuple(encoded), tuple(features), tuple(deepstack), tuple(media), left, positions, tuple(totals)
    )


def _features(
    layout: TokenLayout, number: int, encoded: Encoded, tokens: VisualTokens, total: Reduction
) -> tuple[Float[Tensor, "n d"], list[Float[Tensor, "n d"]]]:
    """What stands for one medium: its reduced tokens, and between them its separators; and what DeepStack adds."""
    own = (layout.prompt.owner == number).nonzero()[:, 0]
    row = torch.full((len(layout.prompt),), -1)  # of each of the medium's tokens among the encoder's rows
    row[own] = torch.arange(len(own))
    is_own = layout.owner == number
    device = encoded.rows.device
    index, on_grid = row[layout.origin[is_own]].to(device), (layout.medium[is_own] == number).to(device)
    rows = encoded.rows[index]
    rows[on_grid] = tokens.values.to(rows)
    deepstack = []
    for layer in encoded.deepstack:
        added = layer[index]
        if total.merges:
            added[on_grid] = total.to(device).apply(layer[row[layout.prompt.media[number].visual].to(device)])
        deepstack.append(added)
    return rows, deepstack


def _without_packing(positions: Int[Tensor, "axes s"]) -> Int[Tensor, "axes s"]:
    """M-RoPE's first row says which tokens are packed together, and rotates nothing: its gaps are closed."""
    if len(positions) == 1:
        return positions
    return torch.cat([positions[:1, :1] + torch.arange(positions.shape[1]), positions[1:]])
