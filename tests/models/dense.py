"""A reduction carried out slot by slot."""

import torch
from torch import Tensor

from tokenlab.tensors import Reduction


def dense(reduction: Reduction, values: Tensor, combine: str = "weights") -> Tensor:
    """Applies a reduction slot by slot."""
    rows, start = [], 0
    for anchor, length in zip(reduction.anchor.tolist(), reduction.lengths.tolist(), strict=True):
        members = reduction.member[start : start + length].tolist()
        weights = reduction.weight[start : start + length].tolist()
        start += length
        if not members:
            rows.append(values[anchor])
            continue
        if combine != "weights":
            weights = [1.0 if combine == "sum" else 1.0 / length] * length
        rows.append(sum(weight * values[member] for member, weight in zip(members, weights, strict=True)))
    return torch.stack(rows)
