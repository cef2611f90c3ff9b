"""Splitting a batch's processor output into its media: what belongs to the image or video of a given number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from tokenlab.models.families.grids import Inputs

if TYPE_CHECKING:
    from tokenlab.models.families.base import MediaSpec


def pixels_name(spec: MediaSpec, inputs: Inputs) -> str:
    """What a processor calls the pixels of this kind of medium."""
    own = f"pixel_values_{spec.encoder}s"
    return own if own in inputs or spec.encoder == "video" else "pixel_values"


def num_media(spec: MediaSpec, inputs: Inputs) -> int:
    """How many images or videos, or where they are read one by one tiles or frames, a batch has."""
    rows = inputs.get(f"{spec.encoder}_grid_thw", inputs.get(pixels_name(spec, inputs)))
    return 0 if rows is None else len(rows)


def rows_of(spec: MediaSpec, inputs: Inputs, here: slice) -> dict[str, Tensor]:
    """The rows of some media in everything that has a row a medium, pixels apart."""
    names = (f"{spec.encoder}_grid_thw", *spec.llm_inputs, "image_sizes")
    return {name: torch.as_tensor(inputs[name])[here] for name in names if name in inputs}


def pixel_rows(_: PretrainedConfig, spec: MediaSpec, inputs: Inputs, here: slice) -> Inputs:
    """A row of pixels a medium."""
    name = pixels_name(spec, inputs)
    return {**rows_of(spec, inputs, here), name: inputs[name][here]}


def tiled_images(config: PretrainedConfig, spec: MediaSpec, inputs: Inputs, here: slice) -> Inputs:
    """LLaVA-NeXT: a row an image, without the tiles that fill the batch up to the image that has the most."""
    own = dict(pixel_rows(config, spec, inputs, here))
    size = own["image_sizes"][0].tolist()
    shape = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
    return {**own, "pixel_values": own["pixel_values"][:, : 1 + math.prod(shape)]}


def packed_patches(_: PretrainedConfig, spec: MediaSpec, inputs: Inputs, here: slice) -> Inputs:
    """Qwen: the patches of all media in one sequence, as many of each as its grid says."""
    own, name = rows_of(spec, inputs, here), pixels_name(spec, inputs)
    ends = torch.as_tensor(inputs[f"{spec.encoder}_grid_thw"]).prod(dim=-1).cumsum(0).tolist()
    start = ends[here.start - 1] if here.start else 0
    return {**own, name: inputs[name][start : ends[here.stop - 1]]}


def tile_rows(_: PretrainedConfig, spec: MediaSpec, inputs: Inputs, here: slice) -> Inputs:
    """InternVL, LLaVA-1.5: a row a tile or frame, whatever medium it belongs to."""
    return {name: value[here] for name, value in inputs.items() if name.startswith("pixel_")}


def nested_tile_rows(config: PretrainedConfig, spec: MediaSpec, inputs: Inputs, here: slice) -> Inputs:
    """SmolVLM: such rows, of one prompt."""
    return {name: value[None] for name, value in tile_rows(config, spec, inputs, here).items()}


def flat_tiles(inputs: Inputs) -> dict[str, Tensor]:
    """Tiles one after the other; SmolVLM's are in rows, filled up with black tiles, which its model skips."""
    own = {name: value for name, value in inputs.items() if name.startswith("pixel_")}
    if not own or own["pixel_values"].ndim < 5:
        return own
    real = (own["pixel_values"] != 0).flatten(2).any(-1)
    return {name: value[real] for name, value in own.items()}
