"""Attention that a layer of the LLM pays, computed row by row as methods ask for it; never all rows at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 256
"""Rows that are held at a time."""


@dataclass(frozen=True)
class Attention:
    """Queries, keys and values of one layer for one prompt, and which of its tokens are left since.

    Groups of heads may share a key, as in grouped-query attention. Logits are causal and scaled; weights are float32.

    Attributes:
        query: Of every token that the layer read.
        key: Likewise.
        scaling: Of the logits.
        left: For each token of the sequence as it is now, which of those tokens it was.
        value: Likewise; None where nobody said.
        log_size: What is added to the logits of each, where attention weighs tokens by how many they stand for.
    """

    query: Float[Tensor, "h r e"]
    key: Float[Tensor, "g r e"]
    scaling: float
    left: Int[Tensor, " s"]
    value: Float[Tensor, "g r f"] | None = None
    log_size: Float[Tensor, " r"] | None = None

    @classmethod
    def of(
        cls,
        query: Float[Tensor, "h r e"],
        key: Float[Tensor, "g r e"],
        scaling: float,
        value: Float[Tensor, "g r f"] | None = None,
        log_size: Float[Tensor, " r"] | None = None,
    ) -> Attention:
        """Nothing has gone yet."""
        return cls(query, key, scaling, torch.arange(key.shape[1], device=key.device), value, log_size)

    @property
    def keys(self) -> Float[Tensor, "g s e"]:
        """Keys of the tokens that are left."""
        return self.key[:, self.left]

    @property
    def values(self) -> Float[Tensor, "g s f"]:
        """Values of the tokens that are left."""
        assert self.value is not None, "attention of a model has values"
        return self.value[:, self.left]

    def keep(self, index: Int[Tensor, " m"]) -> Attention:
        """The same, where of the sequence only these tokens are left."""
        return replace(self, left=self.left[index.to(self.left.device)])

    def to(self, device: torch.device | str) -> Attention:
        """Copies it to another device; itself, where it is there already."""
        if self.key.device == torch.device(device):
            return self
        query, key, left = self.query.to(device), self.key.to(device), self.left.to(device)
        value, log_size = (None if each is None else each.to(device) for each in (self.value, self.log_size))
        return Attention(query, key, self.scaling, left, value, log_size)

    def rows(self, by: Int[Tensor, " q"], among: Int[Tensor, " k"] | None = None) -> Float[Tensor, "h q k"]:
        """What some tokens of the sequence pay others, head by head.

        Args:
            by: Who pays.
            among: Who is paid: the softmax runs over these alone. None: all, those that have gone since included, and
                what is returned are the tokens that are left.

        >>> even = Attention.of(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), 1.0)
        >>> even.rows(torch.tensor([3]), among=torch.tensor([0, 1]))
        tensor([[[0.5000, 0.5000]]])
        """
        rows = self.left[by]
        return self._weights(self.query[:, rows], rows, among)

    def _weights(
        self, query: Float[Tensor, "h q e"], rows: Int[Tensor, " q"], among: Int[Tensor, " k"] | None
    ) -> Float[Tensor, "h q k"]:
        """What queries pay that stand at some of the tokens which the layer read."""
        columns = torch.arange(self.key.shape[1], device=rows.device) if among is None else self.left[among]
        key = (self.key if among is None else self.key[:, columns]).float()
        grouped = query.float().unflatten(0, (key.shape[0], -1)).flatten(1, 2)
        logits = (grouped @ key.mT * self.scaling).unflatten(1, (-1, len(rows))).flatten(0, 1)
        if self.log_size is not None:
            logits = logits + self.log_size.to(logits)[columns]
        weights = logits.masked_fill(columns > rows[:, None], -torch.inf).softmax(-1)
        return weights[..., self.left] if among is None else weights

    def received(
        self,
        by: Int[Tensor, " q"] | Sequence[int],
        heads: Literal["mean", "max", "each"] = "mean",
        over: Literal["mean", "max", "sum", "mean_query"] = "mean",
        among: Int[Tensor, " k"] | None = None,
    ) -> Float[Tensor, "*h k"]:
        """What tokens receive from some others, over heads and then over those who pay; in linear memory.

        Args:
            by: Who pays.
            heads: How heads become one; `each` stays by itself, and comes first.
            over: How rows become one; `mean_query` lets the mean of their queries pay, from where the last of them is.
            among: Who is paid, as in `rows`.

        >>> even = Attention.of(torch.zeros(2, 2, 2), torch.zeros(1, 2, 2), 1.0)
        >>> even.received([0, 1], over="sum")
        tensor([1.5000, 0.5000])
        >>> even.received([0, 1], heads="each", over="mean_query")
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
        """
        by = torch.as_tensor(by, device=self.left.device)
        if over == "mean_query":
            rows = self.left[by]
            mean = self.query[:, rows].float().mean(1, keepdim=True)
            return _over_heads(self._weights(mean, rows.amax(0, keepdim=True), among), heads)[..., 0, :]
        chunks = []
        for part in by.split(CHUNK):
            weights = _over_heads(self.rows(part, among), heads)
            chunks.append(weights.amax(-2) if over == "max" else weights.sum(-2))
        total = torch.stack(chunks)
        if over == "max":
            return total.amax(0)
        return total.sum(0) / len(by) if over == "mean" else total.sum(0)


def _over_heads(weights: Float[Tensor, "h q k"], heads: str) -> Float[Tensor, "*h q k"]:
    if heads == "each":
        return weights
    return weights.mean(0) if heads == "mean" else weights.amax(0)
