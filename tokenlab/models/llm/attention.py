"""Attention rows, from the queries and keys that a probe recorded."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def last_attention(
    query: Float[Tensor, "b h q e"],
    key: Float[Tensor, "b g k e"],
    scaling: float,
    valid: Bool[Tensor, "b k"] | None,
) -> Float[Tensor, "b k"]:
    """Attention from the last token to each; mean over heads, groups of which may share keys. None: all are valid."""
    grouped = query[:, :, -1:].unflatten(1, (key.shape[1], -1)).flatten(2, 3).float()  # groups, heads of a group, e
    scores = grouped @ key.float().transpose(-1, -2) * scaling
    if valid is not None:
        scores = scores.masked_fill(~valid.to(scores.device)[:, None, None], float("-inf"))
    return scores.softmax(-1).mean((1, 2))
