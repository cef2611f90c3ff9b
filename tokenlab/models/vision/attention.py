"""Attention of a layer of the vision tower, from its queries and keys; never all rows at once."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def cls_attention(
    query: Float[Tensor, "b h n e"],
    key: Float[Tensor, "b h n e"],
    scaling: float,
    bias: Float[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b n"]:
    """Attention from the class token, row 0, to each token; mean over heads. O(n) memory. `bias` joins the logits."""
    return (attention_logits(query[:, :, :1], key, scaling) + _rows(bias)).softmax(-1).mean(1)[:, 0]


def mean_attention(
    query: Float[Tensor, "b h n e"],
    key: Float[Tensor, "b h n e"],
    scaling: float,
    bias: Float[Tensor, "b n"] | None = None,
    rows: int = 256,
    over: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, "b n"]:
    """Attention that each token receives, mean over heads, over all queries; streamed, never n x n at once."""
    total = query.new_zeros((query.shape[0], key.shape[2]), dtype=torch.float32)
    for start in range(0, query.shape[2], rows):
        scores = attention_logits(query[:, :, start : start + rows], key, scaling) + _rows(bias)
        total += scores.softmax(-1).mean(1).sum(1)
    return total / query.shape[2] if over == "mean" else total


def attention_logits(
    query: Float[Tensor, "b h q e"], key: Float[Tensor, "b h n e"], scaling: float
) -> Float[Tensor, "b h q n"]:
    """What queries make of keys, before the softmax."""
    return query.float() @ key.float().transpose(-1, -2) * scaling


def _rows(bias: Float[Tensor, "b n"] | None) -> Float[Tensor, "b 1 1 n"] | float:
    return 0.0 if bias is None else bias[:, None, None]
