"""Clusters: density peaks among the nearest neighbours of tokens, and connected components of a graph."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def density_peaks(
    x: Float[Tensor, "*b n d"], neighbours: int, noise: float = 0.0, generator: torch.Generator | None = None
) -> Float[Tensor, "*b n"]:
    """Scores every token as the centre of a cluster (DPC-kNN): dense, and far from all that is denser.

    Density is exp(-mean squared distance) to the nearest neighbours, the token itself among them; distances are divided
    by the square root of the width. A token than which none is denser counts as far from it as any two tokens are from
    one another. All pairs are compared.

    Args:
        x: Tokens, in groups of their own.
        neighbours: How many nearest neighbours count; all, where there are fewer tokens.
        noise: What is added to densities at most, which breaks ties by chance.
        generator: Draws the noise.

    >>> density_peaks(torch.tensor([[0.0], [0.0], [4.0]]), neighbours=2).topk(2).indices
    tensor([0, 1])
    """
    return _peaks(_distances(x), neighbours, noise, generator)


def cluster(
    x: Float[Tensor, "n d"],
    count: int,
    neighbours: int,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, " count"], Int[Tensor, " n"]]:
    """Groups tokens around the best density peaks, each token with the nearest of them.

    Returns:
        The centres, the best first, and for each token the number of its centre. Exact ties of the peaks stand in the
        order of `torch.topk`.

    >>> line = torch.tensor([[0.0], [0.1], [0.3], [4.0], [4.1], [4.3]])
    >>> centres, label = cluster(line, count=2, neighbours=3)
    >>> sorted(centres.tolist()), centres[label].tolist()
    ([1, 4], [1, 1, 1, 4, 4, 4])
    """
    distance = _distances(x)
    centres = _peaks(distance, neighbours, noise, generator).topk(count).indices
    label = distance[:, centres].argmin(dim=1)
    label[centres] = torch.arange(count, device=x.device)
    return centres, label


def _distances(x: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n n"]:
    return torch.cdist(x.float(), x.float()) / x.shape[-1] ** 0.5


def _peaks(
    distance: Float[Tensor, "*b n n"], neighbours: int, noise: float, generator: torch.Generator | None
) -> Float[Tensor, "*b n"]:
    nearest = distance.topk(min(neighbours, distance.shape[-1]), dim=-1, largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()
    if noise:
        density = density + noise * torch.rand(density.shape, generator=generator).to(density)
    is_denser = density[..., None, :] > density[..., :, None]
    farthest = distance.flatten(-2).amax(dim=-1)[..., None, None]
    return torch.where(is_denser, distance, farthest).amin(dim=-1) * density


def components(edges: Int[Tensor, "e 2"], n: int) -> Int[Tensor, " n"]:
    """Finds the connected components of a graph; each node is labelled with the smallest node of its component.

    >>> components(torch.tensor([[3, 1], [1, 4]]), n=5)
    tensor([0, 1, 2, 1, 1])
    """
    label = torch.arange(n, device=edges.device)
    while True:
        smallest = label[edges].amin(dim=1)
        found = label.scatter_reduce(0, label[edges].flatten(), smallest.repeat_interleave(2), "amin")
        found = found[found]
        if torch.equal(found, label):
            return label
        label = found
