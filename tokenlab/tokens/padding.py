"""Batches of sequences of different lengths, padded on the left."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def left_padded(rows: Sequence[Shaped[Tensor, "_ ..."]], fill: int = 0) -> Shaped[Tensor, "b s ..."]:
    """Puts rows of one batch each at its right end.

    >>> left_padded([torch.tensor([1, 2]), torch.tensor([3])])
    tensor([[1, 2],
            [0, 3]])
    """
    return pad_sequence(list(rows), batch_first=True, padding_value=fill, padding_side="left")


def valid_columns(lengths: Sequence[int]) -> Bool[Tensor, "b s"] | None:
    """Which places of a batch of so long rows are no padding; None: all.

    >>> valid_columns([2, 1])
    tensor([[ True,  True],
            [False,  True]])
    """
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    return torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]


def padded_positions(rows: Sequence[Int[Tensor, "axes _"]]) -> Int[Tensor, "*axes b s"]:
    """Position ids of a batch; without an axis where there is only one."""
    padded = left_padded([row.T for row in rows]).movedim(-1, 0)
    return padded if len(padded) > 1 else padded[0]
