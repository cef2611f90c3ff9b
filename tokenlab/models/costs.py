"""FLOPs of a model's parts at any length: counted once on the meta device, then exact by interpolation.

Every matrix product of a decoder costs a polynomial of degree two in the number of tokens it reads (linear layers grow
with it, attention with its square), and one decode step a polynomial of degree one in the length of the cache. Both are
determined by a few counts, taken with torch's FlopCounterMode on a copy of the model without weights; integers
throughout, so that the polynomial equals the counter to the FLOP at every length.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import AutoModel, AutoModelForImageTextToText, DynamicCache, PretrainedConfig

from tokenlab.models.auxiliary import embed_patches, embed_text
from tokenlab.models.families import Family


def counter() -> FlopCounterMode:
    """Torch's own counter (2 x multiply-adds); older torch versions forget attention on the CPU without the mapping."""

    def attention(query: tuple, key: tuple, value: tuple, *_: object, out_shape: object = None, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={cpu_attention: attention})


class ModelCosts:
    """What tower, projector, LLM and auxiliary encoder cost, without weights.

    Args:
        config: The checkpoint's config.
        family: Its family's facts.
        clip: The config of the auxiliary CLIP model, where there is one.
    """

    def __init__(self, config: PretrainedConfig, family: Family, clip: PretrainedConfig | None = None) -> None:
        self.config, self.family = config, family
        with torch.device("meta"):
            self.clip = None if clip is None else AutoModel.from_config(clip, attn_implementation="sdpa").eval()
            self.model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
        self.text = config.get_text_config()

    @cached_property
    def _vision(self) -> tuple[int, int]:
        """Tower and projector for one frame; frames do not see one another."""
        side = self.config.vision_config.image_size
        frame = torch.empty((1, 3, side, side), device="meta", dtype=self.model.dtype)
        with counter() as tower, torch.no_grad():
            self.family.tower_of(self.model)(frame)
        with counter() as both, torch.no_grad():
            self.family.encode(self.model, frame if self.family.modality == "image" else frame[None])
        return tower.get_total_flops(), both.get_total_flops() - tower.get_total_flops()

    def tower(self, frames: int) -> int:
        """The vision tower over `frames` frames, all its layers, whichever is read."""
        return self._vision[0] * frames

    def projector(self, frames: int) -> int:
        """Everything between tower and LLM."""
        return self._vision[1] * frames

    def auxiliary(self, frames: int, texts: Sequence[int]) -> int:
        """The auxiliary encoder over frames and texts of the given lengths; 0 where it read none."""
        if not frames or self.clip is None:
            return 0
        return self._clip_frame * frames + sum(_evaluate(self._clip_text, length) for length in texts)

    @cached_property
    def _clip_frame(self) -> int:
        clip: Any = self.clip
        side = clip.config.vision_config.image_size
        with counter() as count, torch.no_grad():
            embed_patches(clip, torch.empty((1, 3, side, side), device="meta", dtype=clip.dtype))
        return count.get_total_flops()

    @cached_property
    def _clip_text(self) -> list[Fraction]:
        clip: Any = self.clip
        points = []
        for length in (1, 2, 3):
            with counter() as count, torch.no_grad():
                embed_text(clip, torch.zeros((1, length), device="meta", dtype=torch.long))
            points.append((length, count.get_total_flops()))
        return _fit(points)

    @cached_property
    def _prefill(self) -> list[Fraction]:
        return _fit([(n, self._count(n, 0)) for n in (1, 2, 3)])

    def prefill(self, tokens: int) -> int:
        """The LLM reading `tokens` tokens and predicting the next one."""
        return _evaluate(self._prefill, tokens)

    @cached_property
    def _step(self) -> list[Fraction]:
        return _fit([(n, self._count(1, n)) for n in (1, 2)])

    def decode(self, tokens: int, steps: int) -> int:
        """`steps` further tokens after a prefill of `tokens`; each reads the cache that the one before it left."""
        return sum(_evaluate(self._step, tokens + step) for step in range(steps))

    def _count(self, tokens: int, cached: int) -> int:
        """One call of decoder and head: `tokens` new tokens on top of `cached` ones, logits of the last alone."""
        cache = DynamicCache(config=self.text)
        if cached:
            self._read(cached, cache)
        with counter() as count:
            self._read(tokens, cache)
        return count.get_total_flops()

    @torch.no_grad()
    def _read(self, tokens: int, cache: DynamicCache) -> Tensor:
        embeddings = torch.empty((1, tokens, self.text.hidden_size), device="meta", dtype=self.model.dtype)
        hidden = self.model.model.get_decoder()(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)[0]
        return self.model.get_output_embeddings()(hidden[:, -1:])


def _fit(points: list[tuple[int, int]]) -> list[Fraction]:
    """Newton's divided differences through the points at 1, 2, ...: exact coefficients of (n-1), (n-1)(n-2), ..."""
    values = [Fraction(value) for _, value in points]
    coefficients = [values[0]]
    for order in range(1, len(values)):
        values = [(later - earlier) / order for earlier, later in pairwise(values)]
        coefficients.append(values[0])
    return coefficients


def _evaluate(coefficients: list[Fraction], n: int) -> int:
    total, product = Fraction(0), Fraction(1)
    for order, coefficient in enumerate(coefficients):
        total += coefficient * product
        product *= n - 1 - order
    return int(total)
