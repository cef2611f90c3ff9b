"""Reads attention where it is computed, without switching a model to eager: only the rows that were asked for."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

Probe = Callable[[Float[Tensor, "b h q e"], Float[Tensor, "b h k e"], float], None]

Kernel = tuple[Float[Tensor, "b h k e"], Float[Tensor, "b h k e"], Shaped[Tensor, "b _ _ k"] | None]
"""What an attention kernel looks at: keys, values and the mask on the logits, boolean or added to them."""

Rewriting = Callable[[Tensor, Tensor, Tensor, Tensor | None], Kernel]
"""From queries, keys, values and mask to what the kernel shall look at instead."""

_PROBES: dict[int, tuple[str, Sequence[Probe], Rewriting | None]] = {}
"""By id of the attention module: its own kernel, who is listening, and who rewrites."""


def _probed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
) -> Any:
    kernel, probes, rewrite = _PROBES[id(module)]
    for probe in probes:
        probe(query, key, kwargs.get("scaling") or query.shape[-1] ** -0.5)
    if rewrite is not None:
        key, value, attention_mask = rewrite(query, key, value, attention_mask)
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)  # each family's own
    run = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, eager)
    return run(module, query, key, value, attention_mask=attention_mask, **kwargs)


AttentionInterface.register("tokenlab_probe", _probed_attention)


@contextmanager
def probed(module: nn.Module, probes: Sequence[Probe], rewrite: Rewriting | None = None) -> Iterator[None]:
    """While active, probes see the queries and keys of one attention module, whose output stays the same.

    With `rewrite` the module's kernel looks at other keys and values than it is given; the cache keeps what it has.
    """
    shared: Any = module.config
    own = copy.copy(shared)
    _PROBES[id(module)] = (shared._attn_implementation, probes, rewrite)
    own._attn_implementation = "tokenlab_probe"
    module.config = own  # this module's alone: its siblings share the config it had
    try:
        yield
    finally:
        module.config = shared
        del _PROBES[id(module)]


def cls_attention(
    query: Float[Tensor, "b h n e"],
    key: Float[Tensor, "b h n e"],
    scaling: float,
    bias: Float[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b n"]:
    """What the class token, row 0, pays each token; mean over heads. O(n) memory. `bias` is added to the logits."""
    scores = query[:, :, :1].float() @ key.float().transpose(-1, -2) * scaling + _rows(bias)
    return scores.softmax(-1).mean(1)[:, 0]


def mean_attention(
    query: Float[Tensor, "b h n e"],
    key: Float[Tensor, "b h n e"],
    scaling: float,
    bias: Float[Tensor, "b n"] | None = None,
    rows: int = 256,
) -> Float[Tensor, "b n"]:
    """What each token receives, mean over heads and queries; streamed, never n x n at once."""
    total = query.new_zeros((query.shape[0], key.shape[2]), dtype=torch.float32)
    for start in range(0, query.shape[2], rows):
        scores = query[:, :, start : start + rows].float() @ key.float().transpose(-1, -2) * scaling + _rows(bias)
        total += scores.softmax(-1).mean(1).sum(1)
    return total / query.shape[2]


def _rows(bias: Float[Tensor, "b n"] | None) -> Float[Tensor, "b 1 1 n"] | float:
    return 0.0 if bias is None else bias[:, None, None]


def last_attention(
    query: Float[Tensor, "b h q e"], key: Float[Tensor, "b g k e"], scaling: float, mask: Int[Tensor, "b k"]
) -> Float[Tensor, "b k"]:
    """What the last token pays each; mean over heads, groups of which may share keys."""
    grouped = query[:, :, -1:].unflatten(1, (key.shape[1], -1)).flatten(2, 3).float()  # groups, heads of a group, e
    scores = grouped @ key.float().transpose(-1, -2) * scaling
    return scores.masked_fill(mask[:, None, None] == 0, float("-inf")).softmax(-1).mean((1, 2))
