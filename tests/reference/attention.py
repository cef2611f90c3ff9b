"""The attention of one layer, every weight of it, and what methods ask of it: the plain way."""

import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Weights:
    """Stands where a method expects an `Attention`; built on eager code's own queries and keys.

    Attributes:
        query: Of every token that the layer read, head by head.
        key: Likewise, a key for each head.
        groups: How many keys there are that differ.
        scaling: Of the logits.
        homes: What names each of those tokens.
        left: Which of them are left, in their order.
        sizes: How many tokens each of them stood for.
    """

    query: Tensor
    key: Tensor
    scaling: float
    groups: int
    homes: list[int]
    left: list[int]
    sizes: list[float]

    @classmethod
    def of(cls, attention, hidden: Tensor, rotary, prompt) -> "Weights":
        """Runs an eager attention module on a sequence, of which the prompt comes first."""
        query, key, scaling, groups = queries_and_keys(attention, hidden, rotary)
        homes = [id(token.home) for token in prompt]
        query, key = query[:, : len(prompt)], key[:, : len(prompt)]
        return cls(query, key, scaling, groups, homes, list(range(len(prompt))), [token.size for token in prompt])

    def after(self, prompt) -> "Weights":
        """What is left when the prompt has become this."""
        left = [self.homes.index(id(token.home)) for token in prompt]
        return replace(self, left=left)

    @property
    def keys(self) -> Tensor:
        return self.key[:: len(self.key) // self.groups][:, self.left]

    def rows(self, by: Tensor, among: Tensor | None = None) -> Tensor:
        """Row by row, over those it may see."""
        paid_to = list(range(len(self.homes))) if among is None else [self.left[i] for i in among.tolist()]
        rows = []
        for token in by.tolist():
            own = self.left[token]
            logits = self.query[:, own, None].mul(self.key[:, paid_to]).sum(-1) * self.scaling
            logits = logits + torch.tensor([self.sizes[token] for token in paid_to]).log()
            logits[:, torch.tensor(paid_to) > own] = -torch.inf
            rows.append(logits.softmax(-1))
        weights = torch.stack(rows, dim=1)
        return weights[..., self.left] if among is None else weights

    def received(self, by, heads: str = "mean", over: str = "mean", among: Tensor | None = None) -> Tensor:
        weights = self.rows(torch.as_tensor(by), among)
        weights = {"mean": weights.mean(0), "max": weights.amax(0)}[heads]
        return {"mean": weights.mean(0), "max": weights.amax(0), "sum": weights.sum(0)}[over]


def queries_and_keys(attention, hidden: Tensor, rotary) -> tuple[Tensor, Tensor, float, int]:
    """What an eager attention module makes of a sequence: a key for each head, and how many differ."""
    home, seen = sys.modules[type(attention).__module__], []
    plain = home.eager_attention_forward

    def recording(module, query, key, value, mask, scaling, **kwargs):
        seen.append((query[0], key[0].repeat_interleave(query.shape[1] // key.shape[1], dim=0), scaling, key.shape[1]))
        return plain(module, query, key, value, mask, scaling=scaling, **kwargs)

    home.eager_attention_forward = recording
    try:
        attention(hidden, position_embeddings=rotary, attention_mask=None)
    finally:
        home.eager_attention_forward = plain
    return seen[0]
