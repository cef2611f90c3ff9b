"""The stage inside the vision tower: frames lose tokens from block to block, each as many as the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from math import isqrt

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from transformers import PretrainedConfig

from tokenlab.compressors.base import SampleNoise, State
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import BlockView, TowerReduction
from tokenlab.errors import UserError, failing_sample
from tokenlab.models.counter import MethodWork
from tokenlab.reduction import Reduction
from tokenlab.trace import BlockTokens

BlockNoise = Callable[[str], torch.Generator]
"""Fresh noise for a method, by the block in which it decides."""


def method_in_tower(pipeline: Pipeline, noise: SampleNoise, medium: int) -> tuple[TowerReduction, BlockNoise] | None:
    """The pipeline's one method inside the tower, with its noise for a medium; None where there is none."""
    for place, method in pipeline.placed(TowerReduction).items():
        return method, partial(noise.generator, place, medium)
    return None


@dataclass(frozen=True)
class TowerReductions:
    """What a method left of a medium inside the tower.

    Attributes:
        compressor: The method.
        frames: Frames that the tower read together.
        protected: Leading tokens of every frame that may not go, such as [CLS].
        depth: Blocks of the tower; the last ones may not be read by the LLM.
        reductions: By block read, of all frames' tokens one after the other, protected ones included.
        tokens: By block read, of every frame: tokens into attention, and into the MLP; and once more what is left.
        flops: Of the method's decisions, all blocks together.
    """

    compressor: TowerReduction
    frames: int
    protected: int
    depth: int
    reductions: tuple[Reduction, ...]
    tokens: BlockTokens
    flops: int

    @cached_property
    def reduction(self) -> Reduction:
        """Of the medium's grid tokens, slots in the order of the grid, or in the method's own."""
        return self._patches if self.compressor.order == "rank" else self._patches.in_place()

    def from_block(self, block: int) -> Reduction:
        """Composes all reductions applied at or after `block`, counted from the end if negative.

        It brings values captured in that block to the tower's output.
        """
        block = block + self.depth if block < 0 else block
        tokens = self.tokens[block][0] if block < len(self.tokens) else self.tokens[-1][1]
        identity = Reduction.identity(self.frames * tokens, self.reductions[0].anchor.device)
        return reduce(Reduction.then, self.reductions[block:], identity)

    def to_grid(self, rows: Shaped[Tensor, "r ..."]) -> Shaped[Tensor, "m ..."]:
        """Values of what is left, as the tower ordered it, in the order of `reduction` and without leading tokens."""
        by_frame = rows.to(self._patches.anchor.device).unflatten(0, (self.frames, -1))
        patches = self._patches.num_outputs // self.frames
        left = by_frame[:, by_frame.shape[1] - patches :].flatten(0, 1)
        return left if self.compressor.order == "rank" else left[self._patches.anchor.argsort(stable=True)]

    def scatter(self, rows: Float[Tensor, "r d"], on_grid: Bool[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Features in the untouched layout: slots at their anchors, zeros where nothing is left."""
        layout = rows.new_zeros(on_grid.shape[0], rows.shape[1])
        layout[on_grid.nonzero()[:, 0][self.reduction.anchor]] = self.to_grid(rows)
        by_frame = rows.unflatten(0, (self.frames, -1))
        layout[~on_grid] = by_frame[:, : by_frame.shape[1] - self.reduction.num_outputs // self.frames].flatten(0, 1)
        return layout

    @cached_property
    def _patches(self) -> Reduction:
        """All reductions in one, among patches alone, slots in the tower's order."""
        whole = self.from_block(0)
        slots = torch.arange(whole.num_outputs, device=whole.anchor.device).unflatten(0, (self.frames, -1))
        left = whole.then(Reduction.keep(slots[:, self.protected :].flatten(), whole.num_outputs))
        per_frame = whole.num_inputs // self.frames

        def without_protected(index: Int[Tensor, " _"]) -> Int[Tensor, " _"]:
            return index - (index // per_frame + 1) * self.protected

        return Reduction(
            whole.num_inputs - self.frames * self.protected,
            without_protected(left.anchor),
            left.lengths,
            without_protected(left.member),
            left.weight,
        )


class TowerRun:
    """One run of a method over a medium's frames, block by block; the hooks drive it, and so does the dry run.

    Args:
        method: The method.
        noise: What it may draw in each block.
        protected: Leading tokens of every frame that may not go, such as [CLS].
        num_blocks: Blocks before the features that the LLM reads.
        depth: Blocks in all.
    """

    def __init__(self, method: TowerReduction, noise: BlockNoise, protected: int, num_blocks: int, depth: int) -> None:
        self.method, self.noise, self.protected = method, noise, protected
        self.num_blocks, self.depth = num_blocks, depth
        self.state: State = None
        self.reductions: list[Reduction] = []
        self.tokens: list[tuple[int, int]] = []
        self.size: Float[Tensor, "t n"] = torch.empty(0, 0)  # patches that each token stands for
        self.merged = False
        self.work = MethodWork()

    def reduce(
        self,
        hidden: Float[Tensor, "t n d"],
        keys: Float[Tensor, "t n heads e"],
        values: Float[Tensor, "t n heads e"],
        cls_attention: Float[Tensor, "t n"] | None,
    ) -> Float[Tensor, "t m d"]:
        """Asks the method about the next block, and carries its decision out.

        Args:
            hidden: Of every frame, in the block or behind it.
            keys: Of the block's attention.
            values: Likewise.
            cls_attention: What [CLS] pays each token there, if the method looks at that.
        """
        frames, tokens = hidden.shape[:2]
        if not self.reductions:
            self.size = hidden.new_ones(frames, tokens, dtype=torch.float32)
            self.places = BlockView.first_places(frames, tokens - self.protected, self.protected)
            self.side = isqrt(tokens - self.protected)
            assert self.side**2 == tokens - self.protected, "towers that may lose tokens read squares"
        self.size = self.size.to(hidden.device)  # where the model is spread, the next block may be elsewhere
        self.places = self.places.to(hidden.device)
        view = BlockView(
            layer=len(self.reductions),
            num_layers=self.num_blocks,
            hidden=hidden,
            keys=keys,
            values=values,
            cls_attention=cls_attention,
            size=self.size,
            places=self.places,
            grid=(self.side, self.side),
            protected=self.protected,
            generator=self.noise(f"block {len(self.reductions)}"),
        )
        with failing_sample(self.method.name), self.work:
            reduction, self.state = self.method.reduce_block(view, self.state)
            reduction = check_frames(reduction.check().to(hidden.device), self.method.name, frames, tokens)
        self.reductions.append(reduction)
        self.merged |= reduction.merges
        self.size = reduction.apply(self.size.flatten(), "sum").unflatten(0, (frames, -1))
        self.places = self.places.flatten()[reduction.anchor].unflatten(0, (frames, -1))
        left = reduction.apply(hidden.flatten(0, 1)).unflatten(0, (frames, -1))
        self.tokens.append((tokens, left.shape[1] if self.method.moment == "after_attention" else tokens))
        return left

    @property
    def log_size(self) -> Float[Tensor, "t n"] | None:
        """Proportional attention (ToMe, section 3): what is added to the logits of every token; None for nothing."""
        return self.size.log() if self.merged and self.method.proportional_attention else None

    def finish(self, device: torch.device | str = "cpu") -> TowerReductions:
        """All that was done, when the tower has run; on the device where its output is."""
        reductions = tuple(reduction.to(device) for reduction in self.reductions)
        frames, left = self.size.shape
        tokens = (*self.tokens, (left, left))
        return TowerReductions(self.method, frames, self.protected, self.depth, reductions, tokens, self.work.flops)


def check_frames(reduction: Reduction, name: str, frames: int, tokens: int) -> Reduction:
    """Raises ValueError where tokens leave their frame, or frames keep different numbers of them."""
    owner = reduction.anchor // tokens
    expected = torch.arange(frames, device=owner.device).repeat_interleave(len(owner) // frames)
    if not torch.equal(owner, expected):
        raise ValueError(f"{name} must leave every frame the same number of tokens, in order")
    return reduction


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
