"""FLOPs and bytes of a model's parts at any length: counted once on the meta device, then exact by interpolation.

In a layer of a decoder, attention costs a bilinear polynomial of the tokens that ask and the tokens they look at, and
everything else a linear one of the tokens alone. A few counts determine them, taken with torch's FlopCounterMode on a
copy of the model without weights; integers throughout, so that the polynomials equal the counter to the FLOP at every
length, also where every layer reads another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, DynamicCache, PretrainedConfig

from tokenlab.compressors.stages import Size
from tokenlab.models.costs.counting import SAMPLE_POINTS, Bilinear, Polynomial, count
from tokenlab.models.costs.vision import VisionCostModel, vision_cost_model
from tokenlab.models.families import Family, family_of
from tokenlab.models.families.grids import patch_rows
from tokenlab.models.hf import CACHE, windows_of
from tokenlab.models.vision.auxiliary import AuxiliaryPoolingHead, embed_frames, embed_patches, embed_text
from tokenlab.trace import BlockTokens


class ModelCosts:
    """What tower, projector, LLM and auxiliary encoder cost, without weights.

    Args:
        config: The checkpoint's config.
        family: Its family's facts; None: by the config's model type.
        auxiliary: The configs of the auxiliary encoders, by kind.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        family: Family | None = None,
        auxiliary: Mapping[str, PretrainedConfig] = MappingProxyType({}),
    ) -> None:
        self.config, self.family = config, family or family_of(config)
        self.vision: VisionCostModel = vision_cost_model(config, self.family)
        with torch.device("meta"):
            self.encoders = {
                kind: AutoModel.from_config(each, attn_implementation="sdpa").eval().requires_grad_(False)
                for kind, each in auxiliary.items()
            }
            self.model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa").eval()
        self.text, self.windows = config.get_text_config(), windows_of(config)
        self._vision_pass = cache(self._count_vision_pass)
        self._clip_frame = cache(self._count_clip_frame)

    @property
    def num_layers(self) -> int:
        """Layers of the LLM."""
        return self.text.num_hidden_layers

    # --- vision ----------------------------------------------------------------------------------------------------

    def tower(self, passes: int, grid: Size | None = None, tokens: BlockTokens = (), is_image: bool = False) -> int:
        """The vision tower over one medium, all its layers, whichever is read.

        Args:
            passes: Runs of the tower: frames, an image's tiles, or time steps of a few frames together.
            grid: Rows and columns of the token grid, for towers that read frames at their own size.
            tokens: What a frame loses from block to block.
            is_image: Whether the medium is an image.
        """
        return (self._vision_pass(grid, is_image)[0] - self._saved_flops(tokens)) * passes

    def projector(self, passes: int, grid: Size | None = None, tokens: BlockTokens = (), is_image: bool = False) -> int:
        """Everything between tower and LLM, for the same."""
        flops = self._vision_pass(grid, is_image)[1]
        if tokens:
            flops -= self.projector_tokens(tokens[0][0] - tokens[-1][1])
        return flops * passes

    def projector_tokens(self, tokens: int) -> int:
        """A projector that takes tokens one by one, over so many of them."""
        return tokens * self._projector_flops_per_token if tokens else 0

    @cached_property
    def _projector_flops_per_token(self) -> int:
        projector, rows = self.vision.token_wise_projector(self.model), 0
        assert projector is not None, "tokens are merged before projectors that take them one by one alone"

        def count_rows(_: nn.Module, args: tuple) -> None:
            nonlocal rows
            rows += args[0].shape[:-1].numel()

        grid = self.vision.shape(1, is_image=True).grid[1:]
        with ExitStack() as stack:
            stack.callback(projector.register_forward_pre_hook(count_rows).remove)
            _, (flops,) = count(lambda: self.vision.encode(self.model, grid, is_image=True), [projector])
        return flops // rows

    def _saved_flops(self, tokens: BlockTokens) -> int:
        """What the tower saves on a frame that loses tokens from block to block; blocks behind these read the rest."""
        if not tokens:
            return 0
        everything, left = tokens[0][0], tokens[-1][1]
        lengths = [*tokens, *[(left, left)] * len(self._blocks)][: len(self._blocks)]
        return sum(
            part(everything) - part(length)
            for parts, read in zip(self._blocks, lengths, strict=True)
            for part, length in zip(parts, read, strict=True)
        )

    @cached_property
    def _blocks(self) -> list[tuple[Polynomial, Polynomial]]:
        """Attention, and all else, of each block of the tower, by the tokens of one frame."""
        return [self._count_block(block) for block in self.vision.blocks(self.model)]

    def _count_block(self, block: Any) -> tuple[Polynomial, Polynomial]:
        counts = []
        for tokens in (1, 2, 3):
            hidden = torch.empty((1, tokens, block.embed_dim), device="meta", dtype=self.model.dtype)
            total, (attention,) = count(lambda hidden=hidden: block(hidden, attention_mask=None), [block.self_attn])
            counts.append((attention, total - attention))
        attention, others = zip(*counts, strict=True)
        return Polynomial.fit(attention), Polynomial.fit(others)

    def _count_vision_pass(self, grid: Size | None, is_image: bool) -> tuple[int, int]:
        """Tower and projector for one pass; passes do not see one another."""
        grid = grid or self.vision.shape(1, is_image=True).grid[1:]
        towers, projectors = self.vision.tower_modules(self.model), self.vision.projectors(self.model)
        passes = 0

        def encode() -> None:
            nonlocal passes
            passes = self.vision.encode(self.model, grid, is_image)

        total, spent = count(encode, [*towers, *projectors])
        tower = sum(spent[: len(towers)]) - sum(spent[len(towers) :])
        return tower // passes, (total - tower) // passes

    # --- auxiliary encoders ----------------------------------------------------------------------------------------

    def auxiliary(self, frames: int, scored: int, texts: Sequence[int], pooled: int) -> int:
        """Auxiliary encoders.

        Args:
            frames: Frames that CLIP reads patch by patch.
            scored: Frames that CLIP reads as a whole.
            texts: Lengths of the texts that CLIP reads.
            pooled: Passes of the tower that the pooling head looks at.
        """
        flops = frames * self._clip_frame(embed_patches) if frames else 0
        flops += scored * self._clip_frame(embed_frames) if scored else 0
        flops += sum(self._clip_text(length) for length in texts)
        return flops + pooled * self._pooling if pooled else flops

    def _count_clip_frame(self, embed: Callable[[Any, Any], object]) -> int:
        clip: Any = self.encoders["clip"]
        side = clip.config.vision_config.image_size
        frame = torch.empty((1, 3, side, side), device="meta", dtype=clip.dtype)
        return count(lambda: embed(clip, frame))[0]

    @cached_property
    def _clip_text(self) -> Polynomial:
        clip: Any = self.encoders["clip"]
        texts = [torch.zeros((1, length), device="meta", dtype=torch.long) for length in (1, 2, 3)]
        return Polynomial.fit([count(lambda ids=ids: embed_text(clip, ids))[0] for ids in texts])

    @cached_property
    def _pooling(self) -> int:
        head = AuxiliaryPoolingHead(self.encoders["siglip"])
        shape = (1, patch_rows(self.config) ** 2, self.config.vision_config.hidden_size)
        return count(lambda: head(torch.empty(shape, device="meta")))[0]

    # --- LLM -------------------------------------------------------------------------------------------------------

    def prefill(self, tokens: int) -> int:
        """The LLM reading `tokens` tokens and predicting the next one."""
        return self.prefill_layers([tokens] * self.num_layers)

    def prefill_layers(
        self, attention_tokens: Sequence[int], mlp_tokens: Sequence[int] | None = None, rope_tokens: int | None = None
    ) -> int:
        """The LLM reading a prompt of which it loses tokens on the way.

        Args:
            attention_tokens: Tokens that each layer's attention reads.
            mlp_tokens: Tokens that each layer's MLP reads; None: the same.
            rope_tokens: Tokens whose rotary embedding is computed; None: those that the first layer reads.
        """
        flops = self.head + self.rope_flops(attention_tokens[0] if rope_tokens is None else rope_tokens)
        return flops + sum(self.layer_flops(attention_tokens, mlp_tokens or attention_tokens))

    def layer_flops(self, attention_tokens: Sequence[int], mlp_tokens: Sequence[int]) -> list[int]:
        """Each layer reading so many tokens of a prompt, in its attention and in all else."""
        _, attention, others = self._decoder
        by_layer = zip(attention, attention_tokens, others, mlp_tokens, strict=True)
        return [attend(n, n) + rest(m, m) for attend, n, rest, m in by_layer]

    def masked_flops(self, attention_tokens: Sequence[int]) -> int:
        """Of a prefill, what each layer's attention spends on pairs that the causal mask hides."""
        _, attention, _ = self._decoder
        return sum(layer.per_pair * n * (n - 1) // 2 for layer, n in zip(attention, attention_tokens, strict=True))

    def rope_flops(self, tokens: int) -> int:
        """The rotary embedding of so many positions."""
        return self._decoder[0].per_query * tokens

    @property
    def head(self) -> int:
        """What of a prefill goes into predicting the next token from the last one."""
        return self._decoder[0].constant

    def decode(self, tokens: int, steps: int) -> int:
        """`steps` further tokens after a prefill of `tokens`; each reads the cache that the one before it left."""
        return self.decode_layers([tokens] * self.num_layers, steps)

    def decode_layers(self, lengths: Sequence[int], steps: int) -> int:
        """`steps` further tokens after a prefill that left `lengths` tokens in the layers' caches."""
        return sum(self.decode_step([cached + step for cached in lengths]) for step in range(steps))

    def decode_step(self, visible_tokens: Sequence[int]) -> int:
        """One further token, which attends to itself and to so many cached tokens of each layer."""
        rest, attention, others = self._decoder
        flops = rest(1, 1) + sum(layer(1, 1) for layer in others)
        seen = self._in_window(visible_tokens)
        return flops + sum(layer(1, tokens + 1) for layer, tokens in zip(attention, seen, strict=True))

    def _in_window(self, lengths: Sequence[int]) -> list[int]:
        """How much of each layer's cache is there when a window has cut it: all but the token that is decoded."""
        by_layer = zip(lengths, self.windows, strict=True)
        return [length if window is None else min(length, window - 1) for length, window in by_layer]

    @cached_property
    def _decoder(self) -> tuple[Bilinear, list[Bilinear], list[Bilinear]]:
        """What is no layer's (rotary embedding, head), each layer's attention, and all else in each layer."""
        layers = list(self.model.model.get_decoder().layers)
        modules = [*layers, *(layer.self_attn for layer in layers)]
        counts = [self._count_decoder(new, seen - new, modules) for new, seen in SAMPLE_POINTS]
        inside = [list(values) for values in zip(*(spent for _, spent in counts), strict=True)]
        whole, attention = inside[: len(layers)], inside[len(layers) :]
        others = [[a - b for a, b in zip(*each, strict=True)] for each in zip(whole, attention, strict=True)]
        rest = [total - sum(spent[: len(layers)]) for total, spent in counts]
        return Bilinear.fit(rest), [*map(Bilinear.fit, attention)], [*map(Bilinear.fit, others)]

    def _count_decoder(self, tokens: int, cached: int, modules: Sequence[nn.Module]) -> tuple[int, list[int]]:
        """One call of decoder and head: `tokens` new tokens on top of `cached` ones, logits of the last alone."""
        kv_cache = DynamicCache(config=self.text)
        if cached:
            self._run_decoder(cached, kv_cache)
        return count(lambda: self._run_decoder(tokens, kv_cache), modules)

    @torch.no_grad()
    def _run_decoder(self, tokens: int, kv_cache: DynamicCache) -> None:
        embeddings = torch.empty((1, tokens, self.text.hidden_size), device="meta", dtype=self.model.dtype)
        decoder: Any = self.model.model.get_decoder()
        hidden = decoder(inputs_embeds=embeddings, use_cache=True, **{CACHE: kv_cache})[0]
        head: Any = self.model.get_output_embeddings()
        head(hidden[:, -1:])

    def cache_elements(self, lengths: Sequence[int]) -> int:
        """Numbers in a KV cache after so many tokens of each layer."""
        heads = self.text.num_attention_heads
        width = getattr(self.text, "head_dim", None) or self.text.hidden_size // heads
        return 2 * width * (getattr(self.text, "num_key_value_heads", None) or heads) * sum(self._in_window(lengths))

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
