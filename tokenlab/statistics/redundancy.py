"""How redundant visual tokens are: likeness over time, how concentrated attention is, how many directions there are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity


def temporal_similarity(frames: Float[Tensor, "t n d"]) -> Float[Tensor, "t-1 n"]:
    """Compares each token with the one at the same place a frame before, by cosine.

    >>> temporal_similarity(torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 2.0]]])).tolist()
    [[1.0], [0.0]]
    """
    return cosine_similarity(frames[1:], frames[:-1], dim=-1)


def attention_mass(attention: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    """Accumulates the share of attention that the most attended tokens collect: at k - 1, that of the first k.

    >>> attention_mass(torch.tensor([1.0, 3.0])).tolist()
    [0.75, 1.0]
    """
    return attention.sort(descending=True).values.cumsum(-1) / attention.sum(-1, keepdim=True)


def effective_rank(values: Float[Tensor, "n d"]) -> float:
    """Measures how many directions carry the tokens: the exponential of the entropy of their centred spectrum.

    Of the squared singular values, as shares; Roy & Vetterli (EUSIPCO 2007) take the singular values themselves.

    >>> round(effective_rank(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 6)
    2.0
    """
    energy = torch.linalg.svdvals((values - values.mean(0)).float()) ** 2
    share = energy / energy.sum()
    return float(torch.exp(-(share * share.clamp(min=1e-12).log()).sum()))


def settled_layer(scores: Float[Tensor, "l n"], share: float = 0.5) -> Float[Tensor, " l"]:
    """Compares each layer's choice of tokens with the last layer's: the overlap of the best `share` of both.

    Where it comes close to `share`, a layer's attention chooses what the last one attends to no better than chance.

    Args:
        scores: By layer, what each token is worth there, such as the attention that it is paid.
        share: Of the tokens that are chosen.

    >>> settled_layer(torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])).tolist()
    [0.0, 1.0]
    """
    count = max(1, round(share * scores.shape[-1]))
    chosen = torch.zeros_like(scores).scatter(1, scores.topk(count, dim=1).indices, 1.0)
    return (chosen * chosen[-1]).sum(1) / count
