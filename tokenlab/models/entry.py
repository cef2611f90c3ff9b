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

from tokenlab.models.arrangement import Arrangement, Prompt, left_padded
from tokenlab.models.hf import CACHE
from tokenlab.tensors import Reduction


@dataclass(frozen=True)
class Rewrite:
    """What the LLM shall read instead of one untouched prompt.

    Attributes:
        values: For each medium its reduced tokens.
        composed: For each medium all its reductions in one: for whatever else accompanies its tokens.
    """

    prompt: Prompt
    arrangement: Arrangement
    values: tuple[Float[Tensor, "_ d"], ...]
    composed: tuple[Reduction, ...]


@contextmanager
def reduced_prompts(decoder: nn.Module, rewrites: Sequence[Rewrite]) -> Iterator[Entry]:
    """While active, `decoder` reads the rewritten prompts of a left-padded batch; hooks go on any way out."""
    entry = Entry(rewrites)
    handle = decoder.register_forward_pre_hook(entry, with_kwargs=True)
    try:
        yield entry
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


class Entry:
    """The pre-hook; one object a call of `generate`."""

    def __init__(self, rewrites: Sequence[Rewrite]) -> None:
        self.rewrites = rewrites
        self.longest = max(len(rewrite.arrangement) for rewrite in rewrites)
        self.mask: Tensor | None = None  # [b, s], of the reduced sequence so far; set at prefill
        self.positions = torch.empty(0)  # [(r,) b, 1], of the last token

    def __call__(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """What the decoder reads instead of what it was given."""
        embeddings, self.cache = kwargs["inputs_embeds"], kwargs[CACHE]
        kwargs = dict(kwargs)
        if self.mask is None:
            padded = embeddings.shape[1]
            index, self.mask = self._index(padded, embeddings.device)
            kwargs["inputs_embeds"] = self._reduce(embeddings, index)
            self.untouched = self._untouched(kwargs.get("position_ids"), padded)
            arrangements = [rewrite.arrangement for rewrite in self.rewrites]
            positions = self.batch_positions(arrangements, self.longest).to(embeddings.device)
            if kwargs.get("deepstack_visual_embeds") is not None:
                kwargs.update(self._deepstack(kwargs, index))
        else:
            self.mask = torch.cat([self.mask, self.mask.new_ones(embeddings.shape[:2])], dim=1)
            positions = self.positions + 1  # what is decoded is text: the same step on every axis
        # an explicit mask, even of ones: without it transformers takes gaps in the positions for packed documents
        kwargs["attention_mask"], kwargs["position_ids"] = self.mask, positions
        self.positions = positions[..., -1:]
        return args, kwargs

    def rewind(self, steps: int) -> None:
        """Takes back decode steps: the cache, and what comes of its length."""
        if steps and self.mask is not None:
            self.cache.crop(-steps)
            self.mask, self.positions = self.mask[:, :-steps], self.positions - steps

    def _index(self, padded: int, device: torch.device) -> tuple[Int[Tensor, "b r"], Int[Tensor, "b r"]]:
        """Where each remaining token stands in the untouched, padded batch; and which places are not padding."""
        source, mask = left_padded(
            [rewrite.arrangement.source + padded - len(rewrite.prompt) for rewrite in self.rewrites]
        )
        return torch.from_numpy(source).to(device), torch.from_numpy(mask).to(device)

    def _reduce(self, embeddings: Float[Tensor, "b s d"], index: Int[Tensor, "b r"]) -> Float[Tensor, "b r d"]:
        reduced = embeddings.gather(1, index[..., None].expand(-1, -1, embeddings.shape[-1]))
        for row, rewrite in enumerate(self.rewrites):
            for medium, (values, composed) in enumerate(zip(rewrite.values, rewrite.composed, strict=True)):
                if composed.merges:
                    places, slots = self._places(rewrite.arrangement, medium, embeddings.device)
                    reduced[row, places] = values[slots.to(values.device)].to(reduced)
        return reduced

    def _places(
        self, arrangement: Arrangement, medium: int, device: torch.device
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
        """Where a medium's tokens stand in its row of the reduced batch, and which of its slots they are."""
        (places,) = np.nonzero(arrangement.medium == medium)
        slots = arrangement.slot[places]
        places = places + self.longest - len(arrangement)
        return torch.from_numpy(places).to(device), torch.from_numpy(slots).to(device)

    def _untouched(self, original: Tensor | None, padded: int) -> list[Int[np.ndarray, "r l"]]:
        """Position ids of each untouched prompt."""
        if original is None:
            return [np.arange(len(rewrite.prompt))[None] for rewrite in self.rewrites]
        given = original.cpu().numpy()
        given = given.reshape(1 if given.ndim == 2 else given.shape[0], -1, padded)
        return [
            given[:, row % given.shape[1], padded - len(rewrite.prompt) :] for row, rewrite in enumerate(self.rewrites)
        ]

    def batch_positions(self, arrangements: Sequence[Arrangement], longest: int) -> Int[Tensor, "*axes b r"]:
        """Position ids of a left-padded batch of what is left, in the form in which the untouched ones came."""
        rows = self.untouched[0].shape[0]
        reduced = np.zeros((rows, len(arrangements), longest), dtype=np.int64)
        for row, (arrangement, rewrite) in enumerate(zip(arrangements, self.rewrites, strict=True)):
            reduced[:, row, longest - len(arrangement) :] = arrangement.positions(rewrite.prompt, self.untouched[row])
        return torch.from_numpy(reduced if rows > 1 else reduced[0])

    def _deepstack(self, kwargs: dict[str, Any], index: Int[Tensor, "b r"]) -> dict[str, Any]:
        """Features that later layers add to visual tokens are reduced by the same reductions as the tokens."""
        mask: Tensor = kwargs["visual_pos_masks"]
        reduced_mask = mask.gather(1, index) & self.mask.bool()  # pyright: ignore[reportOptionalMemberAccess]
        return {
            "visual_pos_masks": reduced_mask,
            "deepstack_visual_embeds": [
                self._follow(feature, mask, reduced_mask) for feature in kwargs["deepstack_visual_embeds"]
            ],
        }

    def _follow(self, features: Float[Tensor, "v d"], mask: Tensor, reduced_mask: Tensor) -> Float[Tensor, "w d"]:
        """One layer's features of all visual tokens of the batch, reduced row by row."""
        rows = []
        padded = mask.shape[1]
        for row, (rewrite, own) in enumerate(zip(self.rewrites, features.split(mask.sum(1).tolist()), strict=True)):
            arrangement = rewrite.arrangement
            order = np.cumsum(mask[row, padded - len(rewrite.prompt) :].cpu().numpy()) - 1  # of visual tokens
            kept = arrangement.source[reduced_mask[row, self.longest - len(arrangement) :].cpu().numpy()]
            reduced = own[torch.from_numpy(order[kept]).to(own.device)]
            visual = arrangement.medium[reduced_mask[row, self.longest - len(arrangement) :].cpu().numpy()]
            for medium, composed in enumerate(rewrite.composed):
                if composed.merges:
                    tokens = own[torch.from_numpy(order[rewrite.prompt.media[medium].visual]).to(own.device)]
                    slots = arrangement.slot[arrangement.medium == medium]
                    target = torch.from_numpy(np.nonzero(visual == medium)[0]).to(own.device)
                    reduced[target] = composed.to(own.device).apply(tokens)[torch.from_numpy(slots).to(own.device)]
            rows.append(reduced)
        return torch.cat(rows)
