"""From decoded frames to a token grid with evidence: one run of the vision tower."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenlab.compressors.evidence import TokenEmbeddings, TowerAttention, TowerKeys
from tokenlab.errors import SampleError
from tokenlab.models.blocks import BlockWalk, TowerCut, TowerMethod, blocks_read
from tokenlab.models.families import Family, Reading, as_rows
from tokenlab.models.grids import Calls, grid_shape
from tokenlab.models.probes import Probe, cls_attention, mean_attention, probed
from tokenlab.models.prompts import Processed
from tokenlab.tensors import Evidence, VisualTokens


@dataclass(frozen=True)
class Encoded:
    """One medium after tower and projector, for one choice of its frames.

    Attributes:
        output: What the stock encoder gave back; where the tower lost tokens, spread over the untouched layout.
        tokens: Its grid tokens, with the evidence read from the tower.
        processed: What the processor made of it.
        milliseconds: Tower and projector, and the processor where it ran for this.
        evidence_milliseconds: What each piece of evidence took besides; charged to the arms that need it.
        cut: What a method left inside the tower, if there was one.
    """

    output: Any
    tokens: VisualTokens
    processed: Processed
    milliseconds: float
    evidence_milliseconds: dict[Evidence, float]
    cut: TowerCut | None = None

    def charge(self, needs: Collection[Evidence]) -> float:
        """Milliseconds that an arm with these needs is charged."""
        return self.milliseconds + sum(self.evidence_milliseconds.get(need, 0.0) for need in needs)


def synchronise(device: torch.device) -> None:
    """Waits until the device is done, so that a clock reads the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def encode(
    model: PreTrainedModel,
    family: Family,
    processed: Processed,
    needs: frozenset[Evidence],
    tower: TowerMethod | None = None,
) -> Encoded:
    """One medium through tower and projector; raises SampleError if what comes out is not finite."""
    started = time.perf_counter()
    reading = processed.reading
    inputs = {name: _onto(model, value) for name, value in processed.inputs.items()}
    walk = None if tower is None else _walk(model, family, reading, tower)
    probes = [_TowerProbe(family.has_cls, need, walk) for need in needs if isinstance(need, TowerAttention | TowerKeys)]
    listeners: dict[nn.Module, list[Probe]] = {}
    for probe in probes:
        listeners.setdefault(family.attention_of(model, reading, probe.need.layer), []).append(probe)
    with ExitStack() as stack:
        if walk is not None:
            stack.enter_context(walk.hooks())
            for block in walk.blocks:
                listeners.setdefault(getattr(block, family.attention), []).append(walk.listen)
        for module, listening in listeners.items():
            stack.enter_context(probed(module, listening, walk and walk.weigh))
        output = reading.encode(model, inputs)
    synchronise(model.device)
    features = as_rows(output.pooler_output)
    if not bool(torch.isfinite(features).all()):
        raise SampleError("the vision tower's output is not finite (NaN or infinite pixels?)")
    places = torch.from_numpy(processed.places).to(features.device)
    on_grid = places[:, 0] >= 0
    if (cut := walk and walk.cut) is None:
        values, left = features[on_grid], places[on_grid]
    else:
        values, left = cut.to_grid(features), places[on_grid][cut.reduction.anchor]
        output = type(output)(pooler_output=cut.spread(features, on_grid))
    evidence: dict[Evidence, Tensor] = {}
    for probe in probes:
        to_grid = partial(reading.to_grid, model, processed.inputs) if cut is None else partial(probe.behind, cut)
        evidence[probe.need] = probe.shape(to_grid(probe.calls))
    spent: dict[Evidence, float] = {probe.need: probe.milliseconds for probe in probes}
    if (aligned := TokenEmbeddings("llm")) in needs:
        evidence[aligned] = values
    tokens = VisualTokens(values, left, grid_shape(processed.places), evidence)
    elapsed = 1000 * (time.perf_counter() - started)
    return Encoded(output, tokens, processed, elapsed - sum(spent.values()), spent, cut)


def _walk(model: PreTrainedModel, family: Family, reading: Reading, tower: TowerMethod) -> BlockWalk:
    blocks = family.blocks_of(model, reading)
    read = blocks_read(model.config, len(blocks))
    return BlockWalk(blocks, read, family.norm, tower, protected=int(family.has_cls))


def _onto(model: PreTrainedModel, value: Tensor) -> Tensor:
    """On the model's device; pixels in its precision."""
    return value.to(model.device, model.dtype if value.is_floating_point() else None)


class _TowerProbe:
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
        return received(query, key, scaling, self.walk and self.walk.log_size())[..., None]

    def behind(self, cut: TowerCut, calls: Calls) -> Float[Tensor, "m c"]:
        """What was read in one block, brought to the tokens that are left behind the tower."""
        (call,) = calls
        return cut.to_grid(cut.since(self.need.layer).apply(call.flatten(0, 1), self.need.combine))

    def shape(self, on_grid: Float[Tensor, "n c"]) -> Tensor:
        """One number a token for attention, a vector for keys."""
        return on_grid if isinstance(self.need, TowerKeys) else on_grid[:, 0]


def encoder_outputs(media: Sequence[Encoded]) -> dict[str, Any]:
    """What `generate` takes instead of pixels: per encoder one output for all media of a batch, in prompt order."""
    by_encoder: dict[str, list[Encoded]] = {}
    for each in media:
        by_encoder.setdefault(each.processed.reading.encoder, []).append(each)
    return {
        encoder: group[0].processed.reading.batch([each.output for each in group])
        for encoder, group in by_encoder.items()
    }
