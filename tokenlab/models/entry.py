"""The hook at the LLM's entry: it lets an unmodified `generate` run on a reduced sequence.

`generate` believes in the full prompt: its masks and positions count every placeholder. The hook replaces the embedded
sequence at prefill and supplies masks and positions of its own at every step after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenlab.models.arrangement import Arrangement


@dataclass(frozen=True)
class Rewrite:
    """What the LLM shall read instead of one untouched prompt of `length` tokens.

    Attributes:
        values: The reduced medium's tokens; None where all of them are untouched tokens of the prompt.
    """

    arrangement: Arrangement
    length: int
    values: Float[Tensor, "m d"] | None


@contextmanager
def reduced_prompts(decoder: nn.Module, rewrites: Sequence[Rewrite]) -> Iterator[None]:
    """While active, `decoder` reads the rewritten prompts of a left-padded batch; hooks go on any way out."""
    entry = _Entry(rewrites)
    handle = decoder.register_forward_pre_hook(entry, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def after_first_call(module: nn.Module, callback: Callable[[], None]) -> Iterator[None]:
    """Calls back once, when `module` has run for the first time."""

    def hook(*_: Any) -> None:
        handle.remove()
        callback()

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _Entry:
    """The pre-hook; one object a call of `generate`."""

    def __init__(self, rewrites: Sequence[Rewrite]) -> None:
        self.rewrites = rewrites
        self.mask: Tensor | None = None  # [b, s], of the reduced sequence so far; set at prefill
        self.positions = torch.empty(0)  # [b, 1], of the last token

    def __call__(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        embeddings = kwargs["inputs_embeds"]
        kwargs = dict(kwargs)
        if self.mask is None:
            kwargs["inputs_embeds"], self.mask, positions = self._prefill(embeddings)
        else:
            self.mask = torch.cat([self.mask, self.mask.new_ones(embeddings.shape[:2])], dim=1)
            positions = self.positions + 1
        # an explicit mask, even of ones: without it transformers takes gaps in the positions for packed documents
        kwargs["attention_mask"], kwargs["position_ids"] = self.mask, positions
        self.positions = positions[:, -1:]
        return args, kwargs

    def _prefill(
        self, embeddings: Float[Tensor, "b s d"]
    ) -> tuple[Float[Tensor, "b r d"], Int[Tensor, "b r"], Int[Tensor, "b r"]]:
        longest = max(len(rewrite.arrangement) for rewrite in self.rewrites)
        batch, padded, _ = embeddings.shape
        source = np.zeros((batch, longest), dtype=np.int64)
        mask, positions = np.zeros_like(source), np.zeros_like(source)
        for row, rewrite in enumerate(self.rewrites):
            start = longest - len(rewrite.arrangement)
            source[row, start:] = rewrite.arrangement.source + padded - rewrite.length
            positions[row, start:] = rewrite.arrangement.positions
            mask[row, start:] = 1
        device = embeddings.device
        index = torch.from_numpy(source).to(device)
        reduced = embeddings.gather(1, index[..., None].expand(-1, -1, embeddings.shape[-1]))
        for row, rewrite in enumerate(self.rewrites):
            if rewrite.values is not None:
                slot = rewrite.arrangement.slot
                places = torch.from_numpy(np.nonzero(slot >= 0)[0] + longest - len(slot)).to(device)
                values = rewrite.values[torch.from_numpy(slot[slot >= 0]).to(device)]
                reduced[row, places] = values.to(device, reduced.dtype)
        return reduced, torch.from_numpy(mask).to(device), torch.from_numpy(positions).to(device)
