"""Honest rivals: for each arm, the controls that it has to beat at its own budget."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from tokenlab.compressors.base import REGISTRY, TokenCompressor
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import (
    CacheReduction,
    FrameSelection,
    GridReduction,
    LayerReduction,
    PixelReduction,
    TowerReduction,
)
from tokenlab.errors import UserError

CONTROLS = frozenset({"blind", "random", "pool", "grid_stride", "frame_stride", "uniform", "native"})
BLIND, NATIVE = "blind", "native"
DRAWS, LOT = 3, " #"
"""Lots of each random control, and what stands between its name and the number of a lot."""

AT = {TowerReduction: "grid", GridReduction: "grid", LayerReduction: "layers", CacheReduction: "cache"}
"""Where chance stands in for a method of a stage: of several, for the first; in the tower there is no chance."""


def controls_of(arms: Mapping[str, Pipeline], follows_size: bool = False) -> dict[str, dict[str, Pipeline]]:
    """The controls of each arm, by its name and theirs; arms that are made of controls alone have none.

    - `random`, several lots: in place of each compressor, at its stage, layer, ratio and position policy;
    - `pool` and `frame_stride`, and `native` where smaller pictures are fewer tokens: at the product of the ratios;
    - `blind`: no visual token.

    Arms of the same budget share them.

    Args:
        arms: The arms.
        follows_size: Whether the model makes fewer tokens of smaller pictures, images and frames alike.

    Raises:
        UserError: If an arm has no ratio, so that nobody knows its budget beforehand, or bears the name of a control.
    """
    found = {
        arm: _controls(arm, pipeline, follows_size)
        for arm, pipeline in arms.items()
        if any(each.name not in CONTROLS for each in pipeline.active)
    }
    for controls in found.values():
        for name in controls.keys() & arms.keys():
            if arms[name] != controls[name]:
                raise UserError(f"model.controls: arm {name!r} bears the name of a control; rename it")
    return found


def _controls(arm: str, pipeline: Pipeline, follows_size: bool) -> dict[str, Pipeline]:
    ratios = [_ratio(arm, each) for each in pipeline.active]
    overall = prod(ratios)
    by_lot = [Pipeline(tuple(map(_by_lot, pipeline.active, ratios, [draw] * len(ratios)))) for draw in range(DRAWS)]
    name = "+".join(map(_spelled, by_lot[0].compressors))
    if by_lot[0] == by_lot[1]:  # nothing in it is left to chance
        found = {name: by_lot[0]}
    else:
        found = {f"{name}{LOT}{number}": each for number, each in enumerate(by_lot, start=1)}
    for control in ("pool", "frame_stride", *[NATIVE] * follows_size):
        found[f"{control}@{overall:g}"] = Pipeline((REGISTRY[control](retention_ratio=overall),))
    return found | {BLIND: Pipeline((REGISTRY[BLIND].example(),))}


def _ratio(arm: str, compressor: TokenCompressor) -> float:
    if compressor.retention_ratio is None:
        raise UserError(
            f"model.controls: {compressor.name} in arm {arm!r} has no retention_ratio, so that the budget of its "
            "controls is not known beforehand; give it one, or leave model.controls out"
        )
    return compressor.retention_ratio


def _by_lot(compressor: TokenCompressor, ratio: float, draw: int) -> TokenCompressor:
    """Chance in place of one compressor; frames, which have an order, are thinned out evenly, and pictures shrunk."""
    if isinstance(compressor, FrameSelection):
        return REGISTRY["frame_stride"](retention_ratio=ratio)
    if isinstance(compressor, PixelReduction):
        return REGISTRY[NATIVE](retention_ratio=ratio)
    at = next(at for stage, at in AT.items() if isinstance(compressor, stage) and compressor.acts_at(stage))
    layer = {} if at == "grid" else {"layer": getattr(compressor, "layer", 2)}
    build: Any = REGISTRY["random"]
    return build(retention_ratio=ratio, at=at, draw=draw, positions=compressor.positions, **layer)


def _spelled(control: TokenCompressor) -> str:
    if isinstance(control, FrameSelection | PixelReduction):
        return f"{control.name}@{control.retention_ratio:g}"
    fields: dict[str, Any] = vars(control)
    where = "" if fields["at"] == "grid" else f" in {fields['at']} from {fields['layer']}"
    return (
        f"{control.name}@{control.retention_ratio:g}{where}{' renumbered' if control.positions == 'renumber' else ''}"
    )
