"""From decoded frames to a token grid with evidence: one run of the vision tower."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tokenlab.compressors.evidence import TokenEmbeddings
from tokenlab.errors import SampleError
from tokenlab.models.blocks import BlockWalk, TowerCut, TowerMethod, blocks_read
from tokenlab.models.families import Family, Reading, as_rows
from tokenlab.models.grids import grid_shape
from tokenlab.models.listening import Head, listening, synchronise
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


@torch.inference_mode()
def encode(
    model: PreTrainedModel,
    family: Family,
    processed: Processed,
    needs: frozenset[Evidence],
    tower: TowerMethod | None = None,
    head: Head | None = None,
) -> Encoded:
    """One medium through tower and projector; raises SampleError if what comes out is not finite.

    Args:
        model: The model.
        family: Its family's facts.
        processed: What the processor made of the medium.
        needs: The evidence to read on the way.
        tower: A method inside the tower, if there is one.
        head: The tower's pooling head, where there is one.
    """
    started = time.perf_counter()
    reading = processed.reading
    inputs = {name: _onto(model, value) for name, value in processed.inputs.items()}
    walk = None if tower is None else _walk(model, family, reading, tower)
    with listening(model, family, reading, needs, walk, head) as heard:
        output = reading.encode(model, inputs)
    synchronise(model.device)
    features = as_rows(output.pooler_output)
    if not bool(torch.isfinite(features).all()):
        raise SampleError("the vision tower's output is not finite (NaN or infinite pixels?)")
    places = torch.from_numpy(processed.places).to(features.device)
    on_grid = places[:, 0] >= 0
    if (cut := walk and walk.cut(features.device)) is None:
        values, left = features[on_grid], places[on_grid]
    else:
        values, left = cut.to_grid(features), places[on_grid][cut.reduction.anchor]
        output = type(output)(pooler_output=cut.spread(features, on_grid))
    heard_of, spent = heard.evidence(model, processed, cut)
    evidence = {need: value.to(values.device) for need, value in heard_of.items()}
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


def encoder_outputs(media: Sequence[Encoded]) -> dict[str, Any]:
    """What `generate` takes instead of pixels: per encoder one output for all media of a batch, in prompt order."""
    by_encoder: dict[str, list[Encoded]] = {}
    for each in media:
        by_encoder.setdefault(each.processed.reading.encoder, []).append(each)
    return {
        encoder: group[0].processed.reading.batch([each.output for each in group])
        for encoder, group in by_encoder.items()
    }
