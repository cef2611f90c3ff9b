"""Attention masks of layers that read fewer tokens than the LLM's entry: columns and rows of the stock mask."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import pad


def reduced_mask(
    mask: Shaped[Tensor, "b ..."] | None,
    index: Int[Tensor, "b s"],
    valid: Bool[Tensor, "b k"] | None,
    kernel: str,
    hidden: Float[Tensor, "b q d"],
) -> Shaped[Tensor, "b ..."] | None:
    """The mask of a layer's call, out of the mask that stock code made for the LLM's entry.

    Args:
        mask: The stock mask of a prefill, `[b, s]`, or `[b, 1, s, s]`, boolean or added to the logits; None: causal.
        index: Which of the entry's tokens the layer reads, in whatever order; a token sees those that stand before it.
        valid: Which tokens in the layer's cache are no padding; None: all.
        kernel: The attention kernel that reads the mask.
        hidden: What the layer reads.
    """
    if mask is None:
        return None if valid is None else _new_mask(valid, kernel, hidden)
    # slots of a method that ranks stand out of order: what they may see is their place's to say, not their anchor's
    index = index.to(mask.device).sort(dim=1).values
    mask = mask.expand(len(index), *mask.shape[1:])
    if mask.ndim == 2:
        gathered = mask.gather(1, index)
        return gathered if valid is None else gathered * valid.to(gathered)
    mask = mask.gather(2, index[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    mask = mask.gather(3, index[:, None, None].expand(-1, *mask.shape[1:3], -1))
    if valid is None:
        return mask
    allowed = valid.to(mask.device)[:, None, None]
    return mask & allowed if mask.dtype == torch.bool else mask.masked_fill(~allowed, torch.finfo(mask.dtype).min)


def weighted_mask(
    mask: Shaped[Tensor, "b 1 q k"] | None,
    log_size: Float[Tensor, "b s"],
    hidden: Float[Tensor, "b q d"],
    new_tokens: int,
) -> Float[Tensor, "b 1 q k"]:
    """A mask added to the logits, with the log size of each key; 0 for those of the answer.

    Args:
        mask: Boolean or added to the logits; None: causal.
        log_size: Of the prompt's tokens that the layer read.
        hidden: What the layer reads.
        new_tokens: Of the answer, in the layer's cache.
    """
    added = pad(log_size, (0, new_tokens)).to(hidden)[:, None, None]
    if mask is None:
        mask = _new_mask(torch.ones(len(added), added.shape[-1], dtype=torch.bool), "eager", hidden)
    return (_for_logits(mask, hidden.dtype) if mask.dtype == torch.bool else mask) + added


def _new_mask(valid: Bool[Tensor, "b k"], kernel: str, hidden: Float[Tensor, "b q d"]) -> Shaped[Tensor, "b ..."]:
    """Causal, without padding, in the form that a kernel takes."""
    valid = valid.to(hidden.device)
    if kernel.startswith("flash"):
        return valid.long()
    length = hidden.shape[1]
    causal = torch.ones(length, valid.shape[1], dtype=torch.bool, device=hidden.device)
    allowed = valid[:, None, None] & causal.tril(valid.shape[1] - length)
    return _for_logits(allowed, hidden.dtype) if kernel == "eager" else allowed


def _for_logits(allowed: Bool[Tensor, "b 1 q k"], dtype: torch.dtype) -> Float[Tensor, "b 1 q k"]:
    """What is added to the logits, that nothing else may be seen."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
