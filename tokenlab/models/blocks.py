"""The hooks inside the vision tower: frames lose tokens from block to block, between attention and MLP.

A block goes on reading what it is given; its norm before the MLP is handed the reduced tokens, and what the block adds
up is replaced by the sum over those. Blocks behind the one whose output the LLM reads are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial, reduce

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from transformers import PretrainedConfig

from tokenlab.compressors.base import BlockView, State, TowerReduction
from tokenlab.errors import UserError
from tokenlab.models.probes import Kernel
from tokenlab.tensors import Reduction


@dataclass(frozen=True)
class TowerMethod:
    """A method inside the tower, and the noise it may draw for one clip."""

    method: TowerReduction
    generator: torch.Generator


@dataclass(frozen=True)
class TowerCut:
    """What a method left of a clip inside the tower.

    Attributes:
        compressor: The method.
        frames: Frames that the tower read together.
        protected: Leading tokens of every frame that may not go, such as [CLS].
        depth: Blocks of the tower; the last ones may not be read by the LLM.
        reductions: By block read, of all frames' tokens one after the other, protected ones included.
        tokens: By block read, of every frame: what its attention read, and its MLP.
    """

    compressor: TowerReduction
    frames: int
    protected: int
    depth: int
    reductions: tuple[Reduction, ...]
    tokens: tuple[tuple[int, int], ...]

    @cached_property
    def reduction(self) -> Reduction:
        """Of the medium's grid tokens, slots in the order of the grid."""
        bare = self._without_protected(self.since(0))
        return bare.then(Reduction.keep(self._order(bare), bare.num_outputs))

    def since(self, block: int) -> Reduction:
        """What happened to the tokens that a block's attention read, from there on; negative blocks from the end."""
        block %= self.depth
        tokens = self.tokens[block][0] if block < len(self.tokens) else self.tokens[-1][1]
        untouched = Reduction.identity(self.frames * tokens, self.reductions[0].anchor.device)
        return reduce(Reduction.then, self.reductions[block:], untouched)

    def to_grid(self, rows: Shaped[Tensor, "r ..."]) -> Shaped[Tensor, "m ..."]:
        """Values of what is left, as the tower ordered it, in the order of the grid and without leading tokens."""
        bare = self._without_protected(self.since(0))
        by_frame = rows.to(bare.anchor.device).unflatten(0, (self.frames, -1))
        patches = bare.num_outputs // self.frames
        return by_frame[:, by_frame.shape[1] - patches :].flatten(0, 1)[self._order(bare)]

    def spread(self, rows: Float[Tensor, "r d"], on_grid: Bool[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Features in the untouched layout: slots at their anchors, zeros where nothing is left; `generate` counts."""
        layout = rows.new_zeros(on_grid.shape[0], rows.shape[1])
        places = on_grid.nonzero()[:, 0]
        layout[places[self.reduction.anchor]] = self.to_grid(rows)
        by_frame = rows.unflatten(0, (self.frames, -1))
        layout[~on_grid] = by_frame[:, : by_frame.shape[1] - self.reduction.num_outputs // self.frames].flatten(0, 1)
        return layout

    def _order(self, bare: Reduction) -> Int[Tensor, " m"]:
        return bare.anchor.argsort()

    def _without_protected(self, reduction: Reduction) -> Reduction:
        """The same among patches alone."""
        slots = torch.arange(reduction.num_outputs, device=reduction.anchor.device).unflatten(0, (self.frames, -1))
        left = reduction.then(Reduction.keep(slots[:, self.protected :].flatten(), reduction.num_outputs))
        per_frame = reduction.num_inputs // self.frames

        def renumbered(index: Int[Tensor, " _"]) -> Int[Tensor, " _"]:
            return index - (index // per_frame + 1) * self.protected

        patches = reduction.num_inputs - self.frames * self.protected
        return Reduction(patches, renumbered(left.anchor), left.lengths, renumbered(left.member), left.weight)


class BlockWalk:
    """One run of the tower over a clip's frames, each of which keeps as many tokens as the others.

    Args:
        blocks: All blocks, in order.
        read: How many of them stand before the features that the LLM reads.
        norm: What a block calls its norm between attention and MLP.
        tower: The method, and its noise.
        protected: Leading tokens of every frame that may not go, such as [CLS].
    """

    def __init__(self, blocks: nn.ModuleList, read: int, norm: str, tower: TowerMethod, protected: int) -> None:
        self.blocks, self.depth = list(blocks)[:read], len(blocks)
        self.norm, self.tower, self.protected = norm, tower, protected
        self.state: State = None
        self.reductions: list[Reduction] = []
        self.tokens: list[tuple[int, int]] = []
        self.size: Float[Tensor, "t n"] = torch.empty(0, 0)
        self.merged = False

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """While active, the blocks lose tokens; hooks go on any way out."""
        with ExitStack() as stack:
            for index, block in enumerate(self.blocks):
                norm = getattr(block, self.norm)
                stack.callback(norm.register_forward_pre_hook(partial(self.between, index)).remove)
                stack.callback(block.mlp.register_forward_hook(self.fed).remove)  # pyright: ignore[reportAttributeAccessIssue]
                # before the hooks with which transformers collects hidden states
                stack.callback(block.register_forward_hook(self.behind, prepend=True).remove)
            yield

    def listen(self, _: Tensor, key: Float[Tensor, "t h n e"], __: float) -> None:
        """Keeps the keys of the block under way."""
        self.keys = key.transpose(1, 2)

    def log_size(self) -> Float[Tensor, "t n"] | None:
        """Proportional attention (ToMe, section 3): what is added to the logits of every token; None for nothing."""
        return self.size.log() if self.merged and self.tower.method.proportional_attention else None

    def weigh(self, _: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Kernel:
        """Lets a token count as often as there are patches in it."""
        log_size = self.log_size()
        return key, value, mask if log_size is None else log_size.to(key)[:, None, None]

    def between(self, index: int, _: nn.Module, args: tuple) -> tuple[Tensor]:
        """Between attention and MLP: the MLP reads what the method leaves."""
        hidden: Float[Tensor, "t n d"] = args[0]
        frames, tokens = hidden.shape[:2]
        if index == 0:
            self.size = hidden.new_ones(frames, tokens, dtype=torch.float32)
        self.size = self.size.to(hidden.device)  # where the model is spread, the next block may be elsewhere
        view = BlockView(
            layer=index,
            num_layers=len(self.blocks),
            hidden=hidden,
            keys=self.keys,
            size=self.size,
            patches=self.tokens[0][0] if self.tokens else tokens,
            protected=self.protected,
            generator=self.tower.generator,
        )
        reduction, self.state = self.tower.method.reduce_block(view, self.state)
        reduction = reduction.check().to(hidden.device)
        self._check(reduction, frames, tokens)
        self.reductions.append(reduction)
        self.merged |= reduction.merges
        self.size = reduction.apply(self.size.flatten(), "sum").unflatten(0, (frames, -1))
        self.residual = reduction.apply(hidden.flatten(0, 1)).unflatten(0, (frames, -1))
        self.tokens.append((tokens, self.residual.shape[1]))
        return (self.residual,)

    def fed(self, _: nn.Module, __: tuple, output: Tensor) -> Tensor:
        """The block would add the MLP's output to its uncut residual; `behind` adds it to the cut one."""
        self.mlp_output = output
        return output.new_zeros(1)

    def behind(self, _: nn.Module, __: tuple, ___: Tensor) -> Tensor:
        """At a block's end: its true output."""
        return self.residual + self.mlp_output

    def _check(self, reduction: Reduction, frames: int, tokens: int) -> None:
        """Raises ValueError where tokens leave their frame, or frames keep different numbers of them."""
        owner = reduction.anchor // tokens
        expected = torch.arange(frames, device=owner.device).repeat_interleave(len(owner) // frames)
        if not torch.equal(owner, expected):
            raise ValueError(f"{self.tower.method.name} must leave every frame the same number of tokens, in order")

    def cut(self, device: torch.device) -> TowerCut:
        """All that was done, when the tower has run; on the device where its output is."""
        method, frames = self.tower.method, self.size.shape[0]
        reductions = tuple(reduction.to(device) for reduction in self.reductions)
        return TowerCut(method, frames, self.protected, self.depth, reductions, tuple(self.tokens))


def blocks_read(config: PretrainedConfig, depth: int) -> int:
    """How many blocks of a tower stand before the features that the LLM reads.

    Raises:
        UserError: If it reads several layers at once, which would then have different numbers of tokens.
    """
    layer = config.vision_feature_layer
    if not isinstance(layer, int):
        raise UserError(
            f"model.mllm.checkpoint: its LLM reads the tower's layers {list(layer)} side by side, so that no tokens "
            "can go between them; take methods inside the tower out of model.pipelines"
        )
    return layer if layer >= 0 else depth + 1 + layer
