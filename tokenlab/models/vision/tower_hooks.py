"""The hooks inside the vision tower: a method's run over a medium is driven between attention and MLP of each block.

A block goes on reading what it is given; its norm before the MLP is handed the reduced tokens, and what the block adds
up is replaced by the sum over those. Blocks behind the one whose output the LLM reads are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tokenlab.models.hf import AttentionProbe
from tokenlab.models.hooks import HookPoint
from tokenlab.models.vision.attention import cls_attention
from tokenlab.models.vision.tower import TowerRun


class TowerHooks:
    """One run of the tower over a medium's frames.

    Args:
        blocks: All blocks, in order.
        norm: What a block calls its norm between attention and MLP.
        attention: What a block calls its attention.
        run: The method's run.
    """

    def __init__(self, blocks: nn.ModuleList, norm: str, attention: str, run: TowerRun) -> None:
        self.blocks: list[Any] = list(blocks)[: run.num_blocks]
        self.norm, self.attention, self.run = norm, attention, run
        self.log_sizes: list[Float[Tensor, "t n"] | None] = []  # that each block's attention added to its logits
        self.kept: set[int] = set()  # blocks whose queries and keys are evidence, and stay

    @property
    def hook_points(self) -> list[HookPoint]:
        """On every block read: at its entry, between attention and MLP, behind its MLP, and at its end."""
        found = []
        for index, block in enumerate(self.blocks):
            if self.run.method.moment == "after_block":
                found += [
                    HookPoint(block, "before", partial(_on, TowerHooks.pre_block, index)),
                    HookPoint(block, "behind", partial(_on, TowerHooks.post_whole_block, index)),
                ]
                continue
            found += [
                HookPoint(block, "before", partial(_on, TowerHooks.pre_block, index)),
                HookPoint(getattr(block, self.norm), "before", partial(_on, TowerHooks.pre_mlp, index)),
                HookPoint(block.mlp, "behind", partial(_on, TowerHooks.post_mlp, index)),
                HookPoint(block, "behind", partial(_on, TowerHooks.post_block, index)),
            ]
        return found

    @cached_property
    def probes(self) -> dict[nn.Module, AttentionProbe]:
        """Keys are read of every block, and attention may weigh tokens by their size."""
        return {getattr(block, self.attention): AttentionProbe(record=True) for block in self.blocks}

    def probe(self, index: int) -> AttentionProbe:
        """The probe of a block's attention."""
        return self.probes[getattr(self.blocks[index], self.attention)]

    def log_size(self, block: int) -> Float[Tensor, "t n"] | None:
        """What a block's attention added to the logits of every token; None for nothing."""
        block %= self.run.depth
        return self.log_sizes[block] if block < len(self.log_sizes) else self.run.log_size

    def pre_block(self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """At a block's entry: its attention is to weigh tokens by their size."""
        self.log_sizes.append(self.run.log_size)
        self.probe(index).bias = self.run.log_size

    def pre_mlp(self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        """The MLP reads what the method leaves."""
        self.residual = self.reduce(index, args[0])
        return (self.residual,), kwargs

    def post_mlp(
        self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Float[Tensor, "t n d"]
    ) -> Float[Tensor, " 1"]:
        """The block would add the MLP's output to its untouched residual; `post_block` adds it to the reduced one."""
        self.mlp_output = output
        return output.new_zeros(1)

    def post_whole_block(
        self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Float[Tensor, "t n d"]
    ) -> Float[Tensor, "t m d"]:
        """What the method leaves of a whole block's output."""
        return self.reduce(index, output)

    def reduce(self, index: int, hidden: Float[Tensor, "t n d"]) -> Float[Tensor, "t m d"]:
        """What the method leaves, shown what the block's attention was made of."""
        probe = self.probe(index)
        query, key, value = probe.queries[-1], probe.keys[-1], probe.values[-1]
        received = None
        if self.run.method.looks_at_cls:
            with self.run.work:
                received = cls_attention(query, key, probe.scaling, self.log_sizes[index])
        left = self.run.reduce(hidden, key.transpose(1, 2), value.transpose(1, 2), received)
        if index not in self.kept:
            probe.clear()
        return left

    def post_block(
        self, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Float[Tensor, "t n d"]
    ) -> Float[Tensor, "t m d"]:
        """The block's true output."""
        return self.residual + self.mlp_output


_ACTIVE: ContextVar[TowerHooks | None] = ContextVar("tokenlab_tower", default=None)


@torch.compiler.disable  # what is compiled around a layer stays so
def _on(handle: Any, index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], *output: Any) -> Any:
    """Hands a hook's call to the run of this context, if there is one."""
    tower = _ACTIVE.get()
    return None if tower is None else handle(tower, index, module, args, kwargs, *output)


@contextmanager
def active_tower(tower: TowerHooks) -> Iterator[None]:
    """While active, the hooks of this context act for one run of the tower."""
    before = _ACTIVE.set(tower)
    try:
        yield
    finally:
        _ACTIVE.reset(before)
