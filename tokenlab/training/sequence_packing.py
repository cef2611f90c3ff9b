"""Many questions behind one video in one pass: the mathematics of one prompt each, at a tenth of the price."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from tokenlab.shapes.network import GRID


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


def packed_hidden(
    llava: LlavaForConditionalGeneration,
    features: Float[Tensor, "videos frames patches width"],
    opening: Int[Tensor, " 2"],
    timestamps: Int[Tensor, "videos frames"],
    text: PackedText,
) -> list[Float[Tensor, "videos _ hidden"]]:
    """What each layer leaves: of the video and then of every text, as if it alone followed; at last of the texts alone.

    Texts see the video and themselves, not each other, and all start at the position right after the video.
    """
    language = llava.model.language_model
    prefix = _prefix(llava, features, opening, timestamps)
    start = prefix.shape[1]
    hidden = torch.cat([prefix, language.embed_tokens(text.words)], 1)
    positions = torch.cat([torch.arange(start).expand(len(prefix), -1), start + text.places], 1)
    rotation = language.rotary_emb(hidden, positions)
    hidden_words = text.hidden_words()
    last = len(language.layers) - 1
    left = []
    for index, layer in enumerate(language.layers):
        hidden = _layer(layer, hidden, rotation, start, hidden_words, text_only=index == last)
        left.append(hidden)
    return left


def readout(
    llava: LlavaForConditionalGeneration, hidden: Float[Tensor, "*places hidden"]
) -> Float[Tensor, "*places words"]:
    """Which word a hidden state would predict if the layers ended there."""
    return llava.lm_head(llava.model.language_model.norm(hidden))


def patches_of(
    hidden: Float[Tensor, "videos _ hidden"], num_frames: int
) -> Float[Tensor, "videos frames patches hidden"]:
    """The part of a layer's output that belongs to patches, not to words."""
    return hidden[:, 2 : prompt_length(num_frames)].unflatten(1, (num_frames, GRID**2 + 1))[:, :, 1:]


def _prefix(
    llava: LlavaForConditionalGeneration,
    features: Float[Tensor, "videos frames patches width"],
    opening: Int[Tensor, " 2"],
    timestamps: Int[Tensor, "videos frames"],
) -> Float[Tensor, "videos length hidden"]:
    language = llava.model.language_model
    patches = llava.model.multi_modal_projector(features)
    times = language.embed_tokens(timestamps)[:, :, None]
    frames = torch.cat([times, patches.to(times.dtype)], 2).flatten(1, 2)
    return torch.cat([language.embed_tokens(opening).expand(len(frames), -1, -1), frames], 1)


def _layer(
    layer: Any,
    hidden: Float[Tensor, "v s d"],
    rotation: tuple,
    start: int,
    hidden_words: Bool[Tensor, "v 1 w w"],
    text_only: bool,
) -> Float[Tensor, "v _ d"]:
    """One decoder layer; `text_only` leaves out what nothing reads any more: the last layer's video tokens."""
    attention: Any = layer.self_attn
    normed = layer.input_layernorm(hidden)
    wanted = normed[:, start:] if text_only else normed
    key, value = (_heads(x(normed), attention.head_dim) for x in (attention.k_proj, attention.v_proj))
    query = _heads(attention.q_proj(wanted), attention.head_dim)
    key = _rotate(key, rotation, 0)
    query = _rotate(query, rotation, start if text_only else 0)
    mixed = _text_attention(query[:, :, start - key.shape[2] :] * attention.scaling, key, value, start, hidden_words)
    if not text_only:
        asks, keys, values = (part[:, :, :start] for part in (query, key, value))
        seen = F.scaled_dot_product_attention(asks, keys, values, is_causal=True, scale=attention.scaling)
        mixed = torch.cat([seen, mixed], 2)
    hidden = hidden[:, start:] if text_only else hidden
    hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _heads(x: Float[Tensor, "v s d"], width: int) -> Float[Tensor, "v h s e"]:
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def _rotate(x: Float[Tensor, "v h s e"], rotation: tuple, start: int) -> Float[Tensor, "v h s e"]:
    cos, sin = (part[:, None, start:] for part in rotation)
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


def _text_attention(
    query: Float[Tensor, "v h w e"],
    key: Float[Tensor, "v g s e"],
    value: Float[Tensor, "v g s e"],
    start: int,
    hidden_words: Bool[Tensor, "v 1 w w"],
) -> Float[Tensor, "v h w e"]:
    """Attention of each text to the whole video and to its own past."""
    own = (query @ key[:, :, start:].transpose(-1, -2)).masked_fill(hidden_words, float("-inf"))
    return torch.cat([query @ key[:, :, :start].transpose(-1, -2), own], -1).softmax(-1) @ value
