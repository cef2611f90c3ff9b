"""FLOPs and bytes of a model's parts at any length: counted once on the meta device, then exact by interpolation.

In a layer of a decoder, attention costs a bilinear polynomial of the tokens that ask and the tokens they look at, and
everything else a linear one of the tokens alone. A few counts determine them, taken with torch's FlopCounterMode on a
copy of the model without weights; integers throughout, so that the polynomials equal the counter to the FLOP at every
length, also where every layer reads another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import AutoModel, AutoModelForImageTextToText, DynamicCache, PretrainedConfig

from tokenlab.models.auxiliary import PoolingHead, embed_frames, embed_patches, embed_text
from tokenlab.models.families import Family
from tokenlab.models.geometry import Size, vision_side
from tokenlab.models.grids import patch_rows
from tokenlab.models.hf import CACHE
from tokenlab.tensors import BlockTokens


def counter() -> FlopCounterMode:
    """Torch's own counter (2 x multiply-adds); older torch versions forget attention on the CPU without the mapping."""

    def attention(query: tuple, key: tuple, value: tuple, *_: object, out_shape: object = None, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={cpu_attention: attention})


def count(run: Callable[[], object], modules: Sequence[nn.Module] = ()) -> tuple[int, list[int]]:
    """FLOPs of a call, and how many of them were spent inside each of some modules."""
    spent = [0] * len(modules)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        flops = stack.enter_context(counter())
        for place, module in enumerate(modules):

            def enter(*_: object, place: int = place) -> None:
                spent[place] -= flops.get_total_flops()

            def leave(*_: object, place: int = place) -> None:
                spent[place] += flops.get_total_flops()

            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        run()
    return flops.get_total_flops(), spent


@dataclass(frozen=True)
class Polynomial:
    """a + b q + c k + d q k, for `q` tokens that look at `k` tokens."""

    a: int
    b: int
    c: int
    d: int

    @classmethod
    def through(cls, values: Sequence[int]) -> Polynomial:
        """The one that takes these values at the places of `PLACES`."""
        one_one, one_two, two_two, two_three = values
        d = (two_three - two_two) - (one_two - one_one)
        c = one_two - one_one - d
        b = two_two - one_two - 2 * d
        return cls(one_one - b - c - d, b, c, d)

    def __call__(self, q: int, k: int) -> int:
        """Its value."""
        return self.a + self.b * q + self.c * k + self.d * q * k


PLACES = ((1, 1), (1, 2), (2, 2), (2, 3))
"""Where a decoder is counted: new tokens, and all tokens they look at, the cached ones included."""


class ModelCosts:
    """What tower, projector, LLM and auxiliary encoder cost, without weights.

    Args:
        config: The checkpoint's config.
        family: Its family's facts, where it has a row of them.
        auxiliary: The configs of the auxiliary encoders, by kind.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        family: Family | None = None,
        auxiliary: Mapping[str, PretrainedConfig] = MappingProxyType({}),
    ) -> None:
        self.config, self.vision = config, vision_side(config, family)
        with torch.device("meta"):
            self.encoders = {
                kind: AutoModel.from_config(each, attn_implementation="sdpa").eval().requires_grad_(False)
                for kind, each in auxiliary.items()
            }
            self.model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
        self.text = config.get_text_config()
        self._vision_pass = cache(self._count_vision_pass)
        self._clip_frame = cache(self._count_clip_frame)

    @property
    def num_layers(self) -> int:
        """Layers of the LLM."""
        return self.text.num_hidden_layers

    def tower(self, passes: int, grid: Size | None = None, tokens: BlockTokens = (), still: bool = False) -> int:
        """The vision tower over one medium, all its layers, whichever is read.

        Args:
            passes: Runs of the tower: frames, an image's tiles, or steps in time of a few frames together.
            grid: Rows and columns of the token grid, for towers that read frames at their own size.
            tokens: What a frame loses from block to block.
            still: Whether it is an image.
        """
        return (self._vision_pass(grid, still)[0] - self._spared(tokens)) * passes

    def projector(self, passes: int, grid: Size | None = None, tokens: BlockTokens = (), still: bool = False) -> int:
        """Everything between tower and LLM, for the same."""
        flops = self._vision_pass(grid, still)[1]
        if tokens:
            flops -= self.project(tokens[0][0] - tokens[-1][1])
        return flops * passes

    def project(self, tokens: int) -> int:
        """A projector that takes tokens one by one, over so many of them."""
        return tokens * self._projected if tokens else 0

    @cached_property
    def _projected(self) -> int:
        projector, rows = self.vision.token_wise_projector(self.model), 0
        assert projector is not None

        def hear(_: nn.Module, args: tuple) -> None:
            nonlocal rows
            rows += args[0].shape[:-1].numel()

        grid = self.vision.layout(1, still=True).grid[1:]
        with ExitStack() as stack:
            stack.callback(projector.register_forward_pre_hook(hear).remove)
            _, (flops,) = count(lambda: self.vision.encode(self.model, grid, still=True), [projector])
        return flops // rows

    def _spared(self, tokens: BlockTokens) -> int:
        """What the tower saves on a frame that loses tokens from block to block; blocks behind these read the rest."""
        if not tokens:
            return 0
        everything, left = tokens[0][0], tokens[-1][1]
        lengths = [*tokens, *[(left, left)] * (len(self._blocks) - len(tokens))]
        return sum(
            _evaluate(part, everything) - _evaluate(part, length)
            for parts, read in zip(self._blocks, lengths, strict=True)
            for part, length in zip(parts, read, strict=True)
        )

    @cached_property
    def _blocks(self) -> list[tuple[list[Fraction], list[Fraction]]]:
        """Attention, and all else, of each block of the tower, by the tokens of one frame."""
        return [self._count_block(block) for block in self.vision.blocks(self.model)]

    def _count_block(self, block: Any) -> tuple[list[Fraction], list[Fraction]]:
        counts = []
        for tokens in (1, 2, 3):
            hidden = torch.empty((1, tokens, block.embed_dim), device="meta", dtype=self.model.dtype)
            total, (attention,) = count(lambda hidden=hidden: block(hidden, attention_mask=None), [block.self_attn])
            counts.append((attention, total - attention))
        attention, others = zip(*counts, strict=True)
        return _fit(attention), _fit(others)

    def _count_vision_pass(self, grid: Size | None, still: bool) -> tuple[int, int]:
        """Tower and projector for one pass; passes do not see one another."""
        grid = grid or self.vision.layout(1, still=True).grid[1:]
        towers, projectors = self.vision.counted(self.model), self.vision.projectors(self.model)
        passes = 0

        def encode() -> None:
            nonlocal passes
            passes = self.vision.encode(self.model, grid, still)

        total, spent = count(encode, [*towers, *projectors])
        tower = sum(spent[: len(towers)]) - sum(spent[len(towers) :])
        return tower // passes, (total - tower) // passes

    def auxiliary(self, frames: int, scored: int, texts: Sequence[int], pooled: int) -> int:
        """Auxiliary encoders: over frames patch by patch, frames as a whole, texts of the given lengths, and pooling.

        The pooling head looks at so many passes of the tower.
        """
        flops = frames * self._clip_frame(embed_patches) if frames else 0
        flops += scored * self._clip_frame(embed_frames) if scored else 0
        flops += sum(_evaluate(self._clip_text, length) for length in texts)
        return flops + pooled * self._pooling if pooled else flops

    def _count_clip_frame(self, embed: Callable[[Any, Tensor], Tensor]) -> int:
        clip: Any = self.encoders["clip"]
        side = clip.config.vision_config.image_size
        frame = torch.empty((1, 3, side, side), device="meta", dtype=clip.dtype)
        return count(lambda: embed(clip, frame))[0]

    @cached_property
    def _clip_text(self) -> list[Fraction]:
        clip: Any = self.encoders["clip"]
        texts = [torch.zeros((1, length), device="meta", dtype=torch.long) for length in (1, 2, 3)]
        return _fit([count(lambda ids=ids: embed_text(clip, ids))[0] for ids in texts])

    @cached_property
    def _pooling(self) -> int:
        head = PoolingHead(self.encoders["siglip"])
        shape = (1, patch_rows(self.config) ** 2, self.config.vision_config.hidden_size)
        return count(lambda: head(torch.empty(shape, device="meta")))[0]

    def prefill(self, tokens: int) -> int:
        """The LLM reading `tokens` tokens and predicting the next one."""
        return self.prefill_layers([tokens] * self.num_layers)

    def prefill_layers(
        self, lengths: Sequence[int], after_attention: Sequence[int] | None = None, rotated: int | None = None
    ) -> int:
        """The LLM reading a prompt of which it loses tokens on the way.

        Args:
            lengths: Tokens that each layer's attention reads.
            after_attention: Tokens that are left behind each layer's attention; None where none go there.
            rotated: Tokens whose rotary embedding is computed; None: those that the first layer reads.
        """
        _, attention, others = self._decoder
        flops = self.head + self.rotary(lengths[0] if rotated is None else rotated)
        flops += sum(layer(n, n) for layer, n in zip(attention, lengths, strict=True))
        return flops + sum(layer(n, n) for layer, n in zip(others, after_attention or lengths, strict=True))

    def rotary(self, tokens: int) -> int:
        """The rotary embedding of so many positions."""
        return self._decoder[0].b * tokens

    @property
    def head(self) -> int:
        """What of a prefill goes into predicting the next token from the last one."""
        return self._decoder[0].a

    def decode(self, tokens: int, steps: int) -> int:
        """`steps` further tokens after a prefill of `tokens`; each reads the cache that the one before it left."""
        return self.decode_layers([tokens] * self.num_layers, steps)

    def decode_layers(self, lengths: Sequence[int], steps: int) -> int:
        """`steps` further tokens after a prefill that left `lengths` tokens in the layers' caches."""
        return sum(self.decode_step([cached + step for cached in lengths]) for step in range(steps))

    def decode_step(self, cached: Sequence[int]) -> int:
        """One further token, which looks at itself and at so many cached tokens of each layer."""
        rest, attention, others = self._decoder
        flops = rest(1, 1) + sum(layer(1, 1) for layer in others)
        return flops + sum(layer(1, seen + 1) for layer, seen in zip(attention, cached, strict=True))

    @cached_property
    def _decoder(self) -> tuple[Polynomial, list[Polynomial], list[Polynomial]]:
        """What is no layer's (rotary embedding, head), each layer's attention, and all else in each layer."""
        layers = list(self.model.model.get_decoder().layers)
        modules = [*layers, *(layer.self_attn for layer in layers)]
        counts = [self._count(new, seen - new, modules) for new, seen in PLACES]
        inside = [list(values) for values in zip(*(spent for _, spent in counts), strict=True)]
        whole, attention = inside[: len(layers)], inside[len(layers) :]
        others = [_minus(layer, own) for layer, own in zip(whole, attention, strict=True)]
        rest = [total - sum(spent[: len(layers)]) for total, spent in counts]
        return Polynomial.through(rest), [*map(Polynomial.through, attention)], [*map(Polynomial.through, others)]

    def _count(self, tokens: int, cached: int, modules: Sequence[nn.Module]) -> tuple[int, list[int]]:
        """One call of decoder and head: `tokens` new tokens on top of `cached` ones, logits of the last alone."""
        cache = DynamicCache(config=self.text)
        if cached:
            self._read(cached, cache)
        return count(lambda: self._read(tokens, cache), modules)

    @torch.no_grad()
    def _read(self, tokens: int, cache: DynamicCache) -> None:
        embeddings = torch.empty((1, tokens, self.text.hidden_size), device="meta", dtype=self.model.dtype)
        hidden = self.model.model.get_decoder()(inputs_embeds=embeddings, use_cache=True, **{CACHE: cache})[0]
        self.model.get_output_embeddings()(hidden[:, -1:])

    def cache_elements(self, lengths: Sequence[int]) -> int:
        """Numbers in a KV cache that holds so many tokens in each layer."""
        heads = self.text.num_attention_heads
        width = getattr(self.text, "head_dim", None) or self.text.hidden_size // heads
        return 2 * width * (getattr(self.text, "num_key_value_heads", None) or heads) * sum(lengths)

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Weights of tower, projector and LLM; weights that two parts share count once, for the LLM."""
        model = self.model
        llm = _weights(model.model.get_decoder(), model.get_output_embeddings(), model.get_input_embeddings())
        mergers = _weights(*self.vision.projectors(model))
        tower = _weights(self.vision.tower(model)).keys() - mergers.keys()
        every = _weights(model)
        parts = {"tower": tower, "projector": every.keys() - llm.keys() - tower, "llm": llm.keys()}
        return {part: sum(every[key] for key in keys) for part, keys in parts.items()}


def literature_flops(text: PretrainedConfig, lengths: Sequence[int]) -> int:
    """T(4nd^2 + 2n^2d + 2ndm), the sum over T layers that papers print, with every token that a layer reads in n.

    Not a count of FLOPs: it takes a multiply-add for one, leaves out the third matrix of a gated MLP, grouped-query
    attention, the head and all of the vision side.
    """
    d, m = text.hidden_size, text.intermediate_size
    return sum(4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m for n in lengths)


def _weights(*modules: nn.Module) -> dict[int, int]:
    """Sizes of all weights in some modules, by identity."""
    return {id(weight): weight.numel() for module in modules for weight in module.parameters()}


def _minus(left: Sequence[int], right: Sequence[int]) -> list[int]:
    return [a - b for a, b in zip(left, right, strict=True)]


def _fit(counts: Sequence[int]) -> list[Fraction]:
    """Newton's divided differences through the values at 1, 2, ...: exact coefficients of (n-1), (n-1)(n-2), ..."""
    values = [Fraction(value) for value in counts]
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
