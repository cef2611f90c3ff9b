"""Evidence about patches: recorded while tower and projector run, brought to the token grid afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tokenlab.compressors.evidence import (
    FrameFeatures,
    PoolingAttention,
    ProjectorInput,
    TowerAttention,
    TowerFeatures,
    TowerKeys,
    TowerLogits,
)
from tokenlab.models.clock import stage
from tokenlab.models.counter import MethodWork
from tokenlab.models.families import Family, MediaSpec
from tokenlab.models.families.grids import Calls
from tokenlab.models.families.media import ProcessorOutput
from tokenlab.models.hf import AttentionProbe, attention_probes
from tokenlab.models.hooks import hooked
from tokenlab.models.vision.attention import attention_logits, cls_attention, mean_attention
from tokenlab.models.vision.tower import TowerReductions
from tokenlab.models.vision.tower_hooks import TowerHooks, active_tower
from tokenlab.tokens import Evidence

PROJECTOR_INPUT = ProjectorInput()
OfBlock = TowerAttention | TowerLogits | TowerKeys
"""Evidence that is read from an attention layer of the tower."""

POOLED = frozenset({PoolingAttention(), FrameFeatures()})
LAST_BLOCK = TowerFeatures(layer=-1)

PoolingHead = Callable[[Float[Tensor, "t p d"]], tuple[Float[Tensor, "t d"], Float[Tensor, "t p"]]]
"""A tower's pooling head: what it makes of each frame, and what it pays each of its patches."""


@dataclass
class VisionRecord:
    """What was recorded of one medium, as far as some method looks at it.

    Attributes:
        probes: By evidence, the probe of the tower's layer that it is read from.
        tower: The run of a method inside the tower, if there was one.
        projector_inputs: What the projector was given, if it takes tokens one by one.
        outputs: What blocks of the tower gave back, the last one for the pooling head.
        pooled: The evidence that the pooling head will make of that.
        pooled_frames: What it has made of it, call by call.
    """

    probes: dict[OfBlock, AttentionProbe]
    tower: TowerHooks | None
    projector_inputs: list[Float[Tensor, "_ _ c"]] = field(default_factory=list)
    outputs: dict[TowerFeatures, list[Float[Tensor, "t p d"]]] = field(default_factory=dict)
    pooled: tuple[Evidence, ...] = ()
    pooled_frames: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def needs(self, wanted: frozenset[Evidence]) -> list[Evidence]:
        """The evidence that was recorded, of what is wanted."""
        features = [need for need in self.outputs if need in wanted]
        return [*self.probes, *([PROJECTOR_INPUT] if self.projector_inputs else []), *features, *self.pooled]

    def calls(self, need: Evidence, family: Family, head: PoolingHead | None) -> Calls:
        """One piece of evidence, patch by patch, call by call."""
        if _in_tower(need):
            log_size = self.tower.log_size(need.layer) if self.tower else None
            return _from_probe(need, self.probes[need], family, log_size)
        if need == PROJECTOR_INPUT:
            return self.projector_inputs
        if isinstance(need, TowerFeatures):
            return self.outputs[need]
        assert head is not None
        self.pooled_frames = self.pooled_frames or [head(hidden) for hidden in self.outputs[LAST_BLOCK]]
        frames, attention = zip(*self.pooled_frames, strict=True)
        return list(frames) if need == FrameFeatures() else [each[..., None] for each in attention]


@contextmanager
def record_evidence(
    model: PreTrainedModel,
    family: Family,
    spec: MediaSpec,
    needs: frozenset[Evidence],
    tower: TowerHooks | None,
    pooling: bool,
) -> Iterator[VisionRecord | None]:
    """While active, one medium that is encoded is recorded, and reduced by a method inside the tower.

    Yields None where there is nothing to record.

    Args:
        model: The model.
        family: Its family's facts.
        spec: How the family reads the medium.
        needs: The evidence to record.
        tower: The run of a method inside the tower, if there is one.
        pooling: Whether a pooling head will look at the tower's last block.
    """
    pooled = tuple(need for need in POOLED if pooling and need in needs)
    features = {need for need in needs if isinstance(need, TowerFeatures)} | ({LAST_BLOCK} if pooled else set())
    if not (PROJECTOR_INPUT in needs or features or tower or any(map(_in_tower, needs))):
        yield None
        return
    probes: dict[nn.Module, AttentionProbe] = dict(tower.probes) if tower else {}
    record = VisionRecord({}, tower, pooled=pooled)
    for need in filter(_in_tower, needs):
        module = family.attention_of(model, spec, need.layer)
        record.probes[need] = probes.setdefault(module, AttentionProbe(record=True))
        if tower:
            tower.kept.add(need.layer % tower.run.depth)
    with ExitStack() as stack:
        if tower:
            for point in tower.hook_points:
                stack.enter_context(hooked(point, "tower"))
            stack.enter_context(active_tower(tower))
        if probes:
            stack.enter_context(attention_probes(probes))
        projector = family.projector_of(model) if PROJECTOR_INPUT in needs else None
        if projector is not None:
            stack.callback(projector.register_forward_pre_hook(_keeping_input(record.projector_inputs)).remove)
        for need in features:
            block = family.blocks_of(model, spec)[need.layer]
            record.outputs[need] = []
            stack.callback(block.register_forward_hook(_keeping_output(record.outputs[need])).remove)
        yield record


def read_evidence(
    record: VisionRecord | None,
    model: PreTrainedModel,
    family: Family,
    processed: ProcessorOutput,
    reductions: TowerReductions | None,
    head: PoolingHead | None,
    needs: frozenset[Evidence],
) -> tuple[dict[Evidence, Tensor], dict[Evidence, int]]:
    """Evidence on the token grid, or on what a method in the tower left of it; and the FLOPs of each."""
    evidence: dict[Evidence, Tensor] = {}
    spent: dict[Evidence, int] = {}
    if record is None:
        return evidence, spent
    for need in record.needs(needs):
        with MethodWork() as work:
            calls = record.calls(need, family, head)
            if not need.per_token:
                rows = torch.cat(list(calls))
            elif reductions is not None:
                rows = _behind_tower(need, torch.cat(list(calls)), reductions)
            else:
                to_grid = processed.spec.projector_to_grid if need == PROJECTOR_INPUT else processed.spec.to_grid
                rows = to_grid(model, processed.inputs, calls)
        evidence[need] = rows[:, 0] if need.axes == "n" else rows
        spent[need] = 0 if need in POOLED else work.flops  # the pooling head is priced with the auxiliary encoders
    return evidence, spent


def read_pixel_change(config: PretrainedConfig, processed: ProcessorOutput) -> Float[Tensor, " n"]:
    """How far the pixels of each token are from those a step before, from black to white 1."""
    find = processed.spec.pixel_change
    assert find is not None, "elsewhere a method that asks for it is refused"
    with stage("decide"):
        return (find(config, processed.inputs) * torch.tensor(processed.pixel_std)).mean(1)


def _in_tower(need: Evidence) -> TypeGuard[OfBlock]:
    return isinstance(need, OfBlock)


def _behind_tower(need: Evidence, rows: Float[Tensor, "t n c"], reductions: TowerReductions) -> Float[Tensor, "m c"]:
    """Values of patches through all that happened to the tokens since they were recorded."""
    flat = rows.flatten(0, 1)
    if isinstance(need, OfBlock | TowerFeatures):
        # what a block gives back has been through its own reduction
        block = need.layer % reductions.depth + isinstance(need, TowerFeatures)
        total = reductions.from_block(block)
        flat = total.apply(flat.to(total.anchor.device), need.combine)
    return reductions.to_grid(flat)


def _from_probe(
    need: OfBlock, probe: AttentionProbe, family: Family, log_size: Float[Tensor, "t n"] | None
) -> list[Float[Tensor, "b n c"]]:
    """The attention each patch receives, its logit or its key, call by call."""
    if isinstance(need, TowerLogits):
        calls = zip(probe.queries, probe.keys, strict=True)
        return [attention_logits(query[:, :, :1], key, probe.scaling).mean(1)[:, 0, :, None] for query, key in calls]
    if isinstance(need, TowerKeys):
        return [key.mean(1) if need.heads == "mean" else _one_head(key)[:, 0] for key in probe.keys]
    received = cls_attention if family.has_cls and need.query != "mean" else partial(mean_attention, over=need.over)
    bias = None if log_size is None else log_size.to(probe.keys[0].device)
    calls = zip(probe.queries, probe.keys, strict=True)
    if need.heads == "one":
        wide = [(_one_head(query), _one_head(key)) for query, key in calls]
        return [received(query, key, query.shape[-1] ** -0.5, bias)[..., None] for query, key in wide]
    return [received(query, key, probe.scaling, bias)[..., None] for query, key in calls]


def _one_head(heads: Float[Tensor, "b h n e"]) -> Float[Tensor, "b 1 n h*e"]:
    """All heads side by side."""
    return heads.transpose(1, 2).flatten(2)[:, None]


def _keeping_input(calls: list[Float[Tensor, "_ _ c"]]) -> Callable[[nn.Module, tuple], None]:
    """A hook that keeps what a module was given."""

    def keep(_: nn.Module, args: tuple) -> None:
        calls.append(args[0])

    return keep


def _keeping_output(calls: list[Float[Tensor, "t p d"]]) -> Callable[[nn.Module, tuple, Any], None]:
    """A hook that keeps what a block gave back, patches packed into one sequence as one frame."""

    def keep(_: nn.Module, __: tuple, output: Float[Tensor, "*t p d"]) -> None:
        calls.append(output if output.ndim == 3 else output[None])

    return keep
