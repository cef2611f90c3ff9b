"""What is heard while tower and projector run: evidence about patches, brought to the token grid afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenlab.compressors.evidence import PoolingAttention, ProjectorInput, TowerAttention, TowerKeys
from tokenlab.models.blocks import BlockWalk, TowerCut
from tokenlab.models.families import Family, Reading
from tokenlab.models.grids import Calls, ToGrid
from tokenlab.models.probes import Probe, cls_attention, mean_attention, probed
from tokenlab.models.prompts import Processed
from tokenlab.tensors import Evidence

PROJECTOR_INPUT, POOLING = ProjectorInput(), PoolingAttention()

Head = Callable[[Float[Tensor, "t p d"]], Float[Tensor, "t p"]]
"""A tower's pooling head: what it pays each patch of each frame."""


def synchronise(device: torch.device) -> None:
    """Waits until the device is done, so that a clock reads the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Heard:
    """What was heard of one medium, as far as some method looks at it.

    Attributes:
        probes: What was read in attention layers of the tower.
        projected: What the projector was given, if it takes tokens one by one.
        last_block: What the tower's last block gave back, for its pooling head.
        head: The pooling head.
    """

    probes: list[TowerProbe]
    projected: list[Tensor]
    last_block: list[Tensor]
    head: Head | None

    def evidence(
        self, model: PreTrainedModel, processed: Processed, cut: TowerCut | None
    ) -> tuple[dict[Evidence, Tensor], dict[Evidence, float]]:
        """On the token grid, or on what a method in the tower left of it; and the milliseconds that each took."""
        reading = processed.reading
        behind = partial(_behind_tower, model, processed, cut)
        evidence: dict[Evidence, Tensor] = {p.need: p.on_grid(model, processed, cut) for p in self.probes}
        spent: dict[Evidence, float] = {probe.need: probe.milliseconds for probe in self.probes}
        if self.projected:
            evidence[PROJECTOR_INPUT] = behind(reading.projector_to_grid, self.projected)
        if self.last_block and self.head:
            synchronise(model.device)
            started = time.perf_counter()
            evidence[POOLING] = behind(reading.to_grid, [self.head(x)[..., None] for x in self.last_block])[:, 0]
            synchronise(model.device)
            spent[POOLING] = 1000 * (time.perf_counter() - started)
        return evidence, spent


@contextmanager
def listening(
    model: PreTrainedModel,
    family: Family,
    reading: Reading,
    needs: frozenset[Evidence],
    walk: BlockWalk | None,
    head: Head | None,
) -> Iterator[Heard]:
    """While active, one medium that is encoded is listened to; a method inside the tower reads along."""
    probes = [TowerProbe(family.has_cls, need, walk) for need in needs if isinstance(need, TowerAttention | TowerKeys)]
    listeners: dict[nn.Module, list[Probe]] = {}
    for probe in probes:
        listeners.setdefault(family.attention_of(model, reading, probe.need.layer), []).append(probe)
    projector = family.projector_of(model) if PROJECTOR_INPUT in needs else None
    last_block = family.blocks_of(model, reading)[-1] if head and POOLING in needs else None
    heard = Heard(probes, [], [], head)
    with ExitStack() as stack:
        if walk is not None:
            stack.enter_context(walk.hooks())
            for block in walk.blocks:
                listeners.setdefault(getattr(block, family.attention), []).append(walk.listen)
        for module, listening in listeners.items():
            stack.enter_context(probed(module, listening, walk and walk.weigh))
        if projector is not None:
            stack.callback(projector.register_forward_pre_hook(partial(_keep_input, heard.projected)).remove)
        if last_block is not None:
            stack.callback(last_block.register_forward_hook(partial(_keep_output, heard.last_block)).remove)
        yield heard


def _keep_input(calls: list[Tensor], _: nn.Module, args: tuple) -> None:
    calls.append(args[0])


def _keep_output(calls: list[Tensor], _: nn.Module, __: tuple, output: Tensor) -> None:
    calls.append(output)


def _behind_tower(
    model: PreTrainedModel, processed: Processed, cut: TowerCut | None, to_grid: ToGrid, calls: Calls
) -> Float[Tensor, "n c"]:
    """Values of patches as the tower left them: the family's way to the grid, or what a method in the tower left."""
    if cut is None:
        return to_grid(model, processed.inputs, calls)
    return cut.to_grid(torch.cat(list(calls)).flatten(0, 1))


class TowerProbe:
    """Listens to one attention layer of the tower and keeps what one piece of evidence asks for."""

    def __init__(self, has_cls: bool, need: TowerAttention | TowerKeys, walk: BlockWalk | None) -> None:
        self.need, self.has_cls, self.walk = need, has_cls, walk
        self.calls: list[Float[Tensor, "_ _ c"]] = []
        self.milliseconds = 0.0

    def __call__(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Keeps the attention each patch receives, or its key."""
        synchronise(query.device)
        started = time.perf_counter()
        self.calls.append(self._read(query, key, scaling))
        synchronise(query.device)
        self.milliseconds += 1000 * (time.perf_counter() - started)

    def _read(self, query: Tensor, key: Tensor, scaling: float) -> Float[Tensor, "b n c"]:
        if isinstance(self.need, TowerKeys):
            return key.mean(1)
        received = cls_attention if self.has_cls and self.need.query != "mean" else mean_attention
        log_size = self.walk and self.walk.log_size()
        return received(query, key, scaling, None if log_size is None else log_size.to(key.device))[..., None]

    def on_grid(self, model: PreTrainedModel, processed: Processed, cut: TowerCut | None) -> Tensor:
        """What was read, through all that happened to the tokens since: a number a token for attention, else a key."""
        if cut is None:
            rows = processed.reading.to_grid(model, processed.inputs, self.calls)
        else:
            (call,), since = self.calls, cut.since(self.need.layer)
            rows = cut.to_grid(since.apply(call.flatten(0, 1).to(since.anchor.device), self.need.combine))
        return rows if isinstance(self.need, TowerKeys) else rows[:, 0]
