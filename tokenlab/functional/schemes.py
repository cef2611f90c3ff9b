"""How many tokens a model can lose in each of its layers, by the attention they receive there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Observed = Sequence[tuple[Float[Tensor, " n"], Float[Tensor, " n"]]]
"""Of one medium, layer by layer: what its tokens receive from text, and from one another."""

HALVINGS = 30
"""After which the share that may be lost is known to a billionth."""


def negligible(received: Float[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
    """Which tokens, the lowest first, receive together at most this share of all.

    >>> negligible(torch.tensor([4.0, 1.0, 3.0, 2.0]), 0.3)
    tensor([False,  True, False,  True])
    """
    order = received.argsort(stable=True)
    lowest = received[order].cumsum(0) <= share * received.sum()
    return torch.zeros_like(lowest).scatter(0, order, lowest)


def removals(observed: Observed, share: float) -> list[float]:
    """The share of a medium's tokens that goes in each layer: what neither side would miss, of what is left there.

    >>> even, first = torch.ones(4), torch.tensor([0.0, 1.0, 1.0, 1.0])
    >>> removals([(first, first), (even, even)], 0.25)
    [0.25, 0.0]
    """
    left = torch.ones_like(observed[0][0], dtype=torch.bool)
    shares = []
    for by_text, by_visual in observed:
        index = left.nonzero()[:, 0]
        goes = negligible(by_text[index], share) & negligible(by_visual[index], share)
        left[index[goes]] = False
        shares.append(float(goes.sum()) / len(left))
    return shares


def fitted_scheme(media: Sequence[Observed], retention: float) -> list[float]:
    """Finds the removals, mean over media, with which layers read on average this share of all visual tokens.

    FitPrune's search: the share of attention that may be lost in a layer is halved down to where the budget is met.

    Args:
        media: What tokens receive in every layer, medium by medium; each of as many layers.
        retention: The mean over layers of the share that is left behind a layer's removal.

    Returns:
        For each layer the share of all tokens that goes there; their sum is less than 1.

    >>> even = torch.ones(8)
    >>> fitted_scheme([[(even, even)] * 2], 0.75)
    [0.125, 0.125]
    """
    low, high, best = 0.0, 1.0, [0.0] * len(media[0])
    for _ in range(HALVINGS):
        share = (low + high) / 2
        scheme = torch.tensor([removals(observed, share) for observed in media], dtype=torch.float64).mean(dim=0)
        if float((1 - scheme.cumsum(0)).mean()) >= retention:
            low, best = share, scheme.tolist()
        else:
            high = share
    return best
