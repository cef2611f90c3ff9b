"""From decoded frames to a token grid with evidence: one run of the vision tower, shared by all arms that can."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from tokenlab.compressors.evidence import PixelChange, TokenEmbeddings
from tokenlab.compressors.stages import TowerReduction
from tokenlab.data.samples import Frames
from tokenlab.errors import SampleError
from tokenlab.models.families import Family, MediaSpec, as_rows
from tokenlab.models.families.grids import grid_shape
from tokenlab.models.families.media import ProcessorOutput
from tokenlab.models.vision.auxiliary import AuxiliaryClip
from tokenlab.models.vision.evidence import PoolingHead, read_evidence, read_pixel_change, record_evidence
from tokenlab.models.vision.tower import BlockNoise, TowerReductions, TowerRun, blocks_read
from tokenlab.models.vision.tower_hooks import TowerHooks
from tokenlab.tokens import Evidence, VisualTokens

ALIGNED, PIXEL_CHANGE = TokenEmbeddings("llm"), PixelChange()


@dataclass(frozen=True)
class Encoded:
    """One medium after tower and projector, for one choice of its frames.

    Attributes:
        output: What the stock encoder gave back.
        rows: The features of its placeholders, in prompt order; zeros where a method in the tower left nothing.
        deepstack: The same for every LLM layer that adds features of further tower layers.
        tokens: Its grid tokens, with the evidence read from the tower.
        processed: What the processor made of the medium.
        spent: FLOPs of each piece of evidence; those of the arms that look at it.
        tower: What a method left inside the tower, if there was one.
    """

    output: Any
    rows: Float[Tensor, "n d"]
    deepstack: list[Float[Tensor, "n d"]]
    tokens: VisualTokens
    processed: ProcessorOutput
    spent: dict[Evidence, int]
    tower: TowerReductions | None = None

    def evidence_flops(self, needs: Collection[Evidence]) -> int:
        """FLOPs of the evidence that an arm with these needs looks at."""
        return sum(self.spent.get(need, 0) for need in needs)


@torch.inference_mode()
def encode(
    model: PreTrainedModel,
    family: Family,
    processed: ProcessorOutput,
    needs: frozenset[Evidence],
    method: tuple[TowerReduction, BlockNoise] | None = None,
    head: PoolingHead | None = None,
) -> Encoded:
    """Runs one medium through tower and projector; raises SampleError if what comes out is not finite.

    Args:
        model: The model.
        family: Its family's facts.
        processed: What the processor made of the medium.
        needs: The evidence to read on the way.
        method: A method inside the tower and its noise, if there is one.
        head: The tower's pooling head, where there is one.
    """
    spec = processed.spec
    inputs = {name: _onto(model, value) for name, value in processed.inputs.items()}
    tower = None if method is None else _tower_hooks(model, family, spec, *method)
    with record_evidence(model, family, spec, needs, tower, head is not None) as record:
        output = spec.encode(model, inputs)
    features = as_rows(output.pooler_output)
    if not bool(torch.isfinite(features).all()):
        raise SampleError("the vision tower's output is not finite (NaN or infinite pixels?)")
    places = processed.places.to(features.device)
    on_grid = places[:, 0] >= 0
    left = tower and tower.run.finish(features.device)
    rows = features if left is None else left.scatter(features, on_grid)
    values = features[on_grid] if left is None else left.to_grid(features)
    places = places[on_grid] if left is None else places[on_grid][left.reduction.anchor]
    found, spent = read_evidence(record, model, family, processed, left, head, needs)
    if PIXEL_CHANGE in needs:
        found[PIXEL_CHANGE] = read_pixel_change(model.config, processed)
    evidence = {need: value.to(values.device) for need, value in found.items()}
    if ALIGNED in needs:
        evidence[ALIGNED] = values
    tiles = {} if left is not None else _tiles(model.config, processed, values.device)
    is_image, grid = spec is family.image, grid_shape(processed.places)
    tokens = VisualTokens(values, places, grid, evidence, is_image=is_image, **tiles)
    deepstack = [as_rows(layer) for layer in getattr(output, "deepstack_features", None) or []]
    return Encoded(output, rows, deepstack, tokens, processed, spent, left)


def joint_needs(needs: Collection[Evidence]) -> list[TokenEmbeddings]:
    """The embeddings, among what methods look at, that an auxiliary CLIP makes."""
    return [need for need in needs if isinstance(need, TokenEmbeddings) and need.space == "clip"]


def with_joint_embeddings(
    encoded: Encoded, clip: AuxiliaryClip, frames: Frames, cropped: bool, needs: Sequence[TokenEmbeddings]
) -> Encoded:
    """Adds what an auxiliary CLIP makes of the medium's patches, on its token grid.

    Args:
        encoded: The medium.
        clip: The auxiliary encoder.
        frames: The decoded frames.
        cropped: Whether the model's own tower sees the middle square of a picture alone.
        needs: By which of its layers.
    """
    places = encoded.processed.places
    read = clip.read(frames, places[places[:, 0] >= 0], cropped, [need.layer for need in needs])
    found = {need: rows.to(encoded.tokens.values.device) for need, rows in zip(needs, read, strict=True)}
    if encoded.tower is not None:
        found = {need: encoded.tower.reduction.apply(rows, need.combine) for need, rows in found.items()}
    tokens = replace(encoded.tokens, evidence={**encoded.tokens.evidence, **found})
    return replace(encoded, tokens=tokens)


def _tiles(config: PretrainedConfig, processed: ProcessorOutput, device: torch.device) -> dict[str, Any]:
    """How an image was cut into tiles, for its tokens; nothing for what is read as it is."""
    if (find := processed.spec.tiles) is None:
        return {}
    places = processed.places
    found = find(config, processed.inputs, places[places[:, 0] >= 0])
    if found is None:
        return {}
    tile, within = found.tile.to(device), found.within.to(device)
    return {"tile": tile, "within": within, "thumbnail": found.thumbnail, "tile_grid": found.tile_grid}


def _tower_hooks(
    model: PreTrainedModel, family: Family, spec: MediaSpec, method: TowerReduction, noise: BlockNoise
) -> TowerHooks:
    blocks = family.blocks_of(model, spec)
    read = blocks_read(model.config, len(blocks))
    run = TowerRun(method, noise, int(family.has_cls), read, len(blocks))
    return TowerHooks(blocks, family.norm, family.attention, run)


def _onto(model: PreTrainedModel, value: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """On the model's device; pixels in its precision."""
    return value.to(model.device, model.dtype if value.is_floating_point() else None)
