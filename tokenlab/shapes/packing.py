"""Many questions behind one video in one pass: the mathematics of one prompt each, at a tenth of the price."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from tokenlab.shapes.network import GRID

QUERY_BLOCK = 4 * (GRID**2 + 1)
"""Queries attend block by block, each to the keys up to its own end: nearly half of the causal square is never made."""


@dataclass
class PackedText:
    """Several texts in one row per video.

    Args:
        words: token ids, text after text.
        owners: number of the text that each word belongs to.
        places: place of each word in its text, from 0.
    """

    words: Int[Tensor, "videos length"]
    owners: Int[Tensor, "videos length"]
    places: Int[Tensor, "videos length"]

    def hidden_words(self) -> Bool[Tensor, "videos 1 length length"]:
        """Which words (last axis) a word must not see: its own future and other texts."""
        foreign = self.owners[:, :, None] != self.owners[:, None, :]
        future = self.places[:, :, None] < self.places[:, None, :]
        return (foreign | future)[:, None]


def prompt_length(num_frames: int) -> int:
    """Tokens before a question: <bos> user, then a timestamp and the patches of each frame."""
    return 2 + num_frames * (GRID**2 + 1)


def packed_logits(
    llava: LlavaForConditionalGeneration,
    features: Float[Tensor, "videos frames patches width"],
    opening: Int[Tensor, " 2"],
    timestamps: Int[Tensor, "videos frames"],
    text: PackedText,
) -> Float[Tensor, "videos length words"]:
    """Next-word logits of every text as if it alone followed the video.

    Texts see the video and themselves, not each other, and all start at the position right after the video.
    """
    language = llava.model.language_model
    prefix = _prefix(llava, features, opening, timestamps)
    start = prefix.shape[1]
    hidden = torch.cat([prefix, language.embed_tokens(text.words)], 1)
    positions = torch.cat([torch.arange(start).expand(len(prefix), -1), start + text.places], 1)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
    rotation = tuple(part.to(dtype) for part in language.rotary_emb(hidden, positions))
    hidden_words = text.hidden_words()
    last = len(language.layers) - 1
    for index, layer in enumerate(language.layers):
        hidden = _layer(layer, hidden, rotation, start, hidden_words, text_only=index == last)
    return llava.lm_head(language.norm(hidden))


def _prefix(
    llava: LlavaForConditionalGeneration, features: Tensor, opening: Tensor, timestamps: Tensor
) -> Float[Tensor, "videos length width"]:
    language = llava.model.language_model
    patches = llava.model.multi_modal_projector(features)
    times = language.embed_tokens(timestamps)[:, :, None]
    frames = torch.cat([times, patches.to(times.dtype)], 2).flatten(1, 2)
    return torch.cat([language.embed_tokens(opening).expand(len(frames), -1, -1), frames], 1)


def _layer(
    layer: nn.Module, hidden: Tensor, rotation: tuple, start: int, hidden_words: Tensor, text_only: bool
) -> Tensor:
    """One decoder layer; `text_only` leaves out what nothing reads any more: the last layer's video tokens."""
    attention: Any = layer.self_attn
    normed = layer.input_layernorm(hidden)
    wanted = normed[:, start:] if text_only else normed
    key, value = (_heads(x(normed), attention.head_dim) for x in (attention.k_proj, attention.v_proj))
    query = _heads(attention.q_proj(wanted), attention.head_dim)
    key = _rotate(key, rotation, 0)
    query = _rotate(query, rotation, start if text_only else 0) * attention.scaling
    text = _text_attention(query[:, :, start - key.shape[2] :], key, value, start, hidden_words)
    mixed = text if text_only else torch.cat([_causal_attention(query, key, value, start), text], 2)
    hidden = hidden[:, start:] if text_only else hidden
    hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _heads(x: Tensor, width: int) -> Tensor:
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def _rotate(x: Tensor, rotation: tuple, start: int) -> Tensor:
    cos, sin = (part[:, None, start:] for part in rotation)
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


def _causal_attention(query: Tensor, key: Tensor, value: Tensor, length: int) -> Tensor:
    """Plain attention among the video's tokens: on a CPU the fused kernel's backward pass takes twice as long."""
    mixed = []
    for begin in range(0, length, QUERY_BLOCK):
        end = min(begin + QUERY_BLOCK, length)
        scores = query[:, :, begin:end] @ key[:, :, :end].transpose(-1, -2)
        future = torch.ones(end - begin, end - begin, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(F.pad(future, (begin, 0)), float("-inf"))
        mixed.append(scores.softmax(-1) @ value[:, :, :end])
    return torch.cat(mixed, 2)


def _text_attention(query: Tensor, key: Tensor, value: Tensor, start: int, hidden_words: Tensor) -> Tensor:
    """Attention of each text to the whole video and to its own past."""
    own = (query @ key[:, :, start:].transpose(-1, -2)).masked_fill(hidden_words, float("-inf"))
    return torch.cat([query @ key[:, :, :start].transpose(-1, -2), own], -1).softmax(-1) @ value
