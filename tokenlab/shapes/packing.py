"""Many questions behind one video in one pass: the mathematics of one prompt each, at a tenth of the price."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from tokenlab.shapes.network import GRID

QUERY_BLOCK = 4 * (GRID**2 + 1)
"""Queries attend block by block, each to the keys up to its own end: nearly half of the causal square is never made."""


def prompt_length(num_frames: int) -> int:
    """Tokens before a question: <bos> user, then a timestamp and the patches of each frame."""
    return 2 + num_frames * (GRID**2 + 1)


def packed_logits(
    llava: LlavaForConditionalGeneration,
    features: Float[Tensor, "videos frames patches width"],
    opening: Int[Tensor, " 2"],
    timestamps: Int[Tensor, "videos frames"],
    segments: Int[Tensor, "videos questions length"],
) -> Float[Tensor, "videos questions length words"]:
    """Next-word logits of every segment as if it alone followed the video.

    Segments see the video and themselves, not each other, and all start at the position right after the video.
    """
    language = llava.model.language_model
    questions, length = segments.shape[1:]
    prefix = _prefix(llava, features, opening, timestamps)
    start = prefix.shape[1]
    hidden = torch.cat([prefix, language.embed_tokens(segments.flatten(1))], 1)
    positions = torch.cat([torch.arange(start), start + torch.arange(length).repeat(questions)])
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
    rotation = tuple(part.to(dtype) for part in language.rotary_emb(hidden, positions[None]))
    last = len(language.layers) - 1
    for index, layer in enumerate(language.layers):
        hidden = _layer(layer, hidden, rotation, start, questions, text_only=index == last)
    return llava.lm_head(language.norm(hidden)).unflatten(1, (questions, length))


def _prefix(
    llava: LlavaForConditionalGeneration, features: Tensor, opening: Tensor, timestamps: Tensor
) -> Float[Tensor, "videos length width"]:
    language = llava.model.language_model
    patches = llava.model.multi_modal_projector(features)
    times = language.embed_tokens(timestamps)[:, :, None]
    frames = torch.cat([times, patches.to(times.dtype)], 2).flatten(1, 2)
    return torch.cat([language.embed_tokens(opening).expand(len(frames), -1, -1), frames], 1)


def _layer(layer: nn.Module, hidden: Tensor, rotation: tuple, start: int, questions: int, text_only: bool) -> Tensor:
    """One decoder layer; `text_only` leaves out what nothing reads any more: the last layer's video tokens."""
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    wanted = normed[:, start:] if text_only else normed
    key, value = (_heads(x(normed), attention.head_dim) for x in (attention.k_proj, attention.v_proj))
    query = _heads(attention.q_proj(wanted), attention.head_dim)
    key = _rotate(key, rotation, 0)
    query = _rotate(query, rotation, start if text_only else 0) * attention.scaling
    text = _text_attention(query[:, :, start - key.shape[2] :], key, value, start, questions)
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


def _text_attention(query: Tensor, key: Tensor, value: Tensor, start: int, questions: int) -> Tensor:
    """Attention of each segment to the whole video and to its own past."""
    own_key, own_value = (x[:, :, start:].unflatten(2, (questions, -1)) for x in (key, value))
    own_query = query.unflatten(2, (questions, -1))
    length = own_query.shape[3]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    own = (own_query @ own_key.transpose(-1, -2)).masked_fill(future, float("-inf")).flatten(2, 3)
    weights = torch.cat([query @ key[:, :, :start].transpose(-1, -2), own], -1).softmax(-1)
    mixed = weights[..., start:].unflatten(2, (questions, -1)) @ own_value
    return weights[..., :start] @ value[:, :, :start] + mixed.flatten(2, 3)
