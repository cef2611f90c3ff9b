"""Where a medium's visual tokens lie on its token grid, and how what the tower says of its patches gets there.

One small function a layout; the rows of the family table name them. Places are in the order in which the tokens stand
in the prompt; tokens outside the grid, such as newlines, lie at (-1, -1, -1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image
from transformers.vision_utils import get_vision_window_index

Places = Int[np.ndarray, "_ 3"]
Inputs = Mapping[str, Any]
"""What the checkpoint's processor made of one medium."""

ToGrid = Callable[[PreTrainedModel, Inputs, Sequence[Float[Tensor, "_ _"]]], Float[Tensor, " n"]]
"""From one value per patch, as the layer's attention saw them call by call, to one value per grid token."""

OUTSIDE = -1


def raster(frames: int, rows: int, columns: int, first_frame: int = 0) -> Places:
    """Frame by frame, row by row."""
    places = np.indices((frames, rows, columns)).reshape(3, -1).T
    return places + np.array([first_frame, 0, 0])


def with_newlines(places: Places, every: int) -> Places:
    """A token outside the grid after each `every` tokens."""
    outside = np.full((len(places) // every, 1, 3), OUTSIDE)
    return np.concatenate([places.reshape(-1, every, 3), outside], axis=1).reshape(-1, 3)


def patch_rows(config: PretrainedConfig) -> int:
    """Patches along a side of the tower's square input."""
    vision = config.vision_config
    size = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    return size // patch


def square(config: PretrainedConfig, inputs: Inputs) -> Places:
    """Every patch of every picture."""
    side = patch_rows(config)
    return raster(len(inputs["pixel_values"]), side, side)


def pooled_video(config: PretrainedConfig, inputs: Inputs) -> Places:
    """LLaVA-OneVision: frames pooled to half, one newline at the very end."""
    side = math.ceil(patch_rows(config) / 2)
    places = raster(inputs["pixel_values_videos"].shape[1], side, side)
    return with_newlines(places, every=len(places))


def any_resolution(config: PretrainedConfig, inputs: Inputs) -> Places:
    """The whole image as frame 0; then its tiles as one mosaic without padding, a newline after every row."""
    side = patch_rows(config)
    size = torch.as_tensor(inputs["image_sizes"])[0].tolist()
    base = raster(1, side, side)
    if inputs["pixel_values"].shape[1] == 1:
        return with_newlines(base, every=len(base))
    tiles = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
    _, rows, columns = unpad_image(torch.empty(1, tiles[0] * side, tiles[1] * side), size).shape
    limit = getattr(config, "vision_aspect_ratio", "")
    if limit.startswith("anyres_max_"):  # LLaVA-OneVision shrinks large mosaics
        shrink = math.sqrt(rows * columns / (int(limit.removeprefix("anyres_max_")) * side**2))
        if shrink > 1.1:
            rows, columns = int(rows // shrink), int(columns // shrink)
    return np.concatenate([base, with_newlines(raster(1, rows, columns, first_frame=1), every=columns)])


def merged_patches(config: PretrainedConfig, inputs: Inputs) -> Places:
    """Qwen: squares of patches are one token; the processor says how many patches there are."""
    ((frames, rows, columns),) = (inputs.get("video_grid_thw", inputs.get("image_grid_thw"))).tolist()
    merge = config.vision_config.spatial_merge_size
    return raster(frames, rows // merge, columns // merge)


def patches(_: PreTrainedModel, __: Inputs, calls: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, " n"]:
    """A patch is a token."""
    return torch.cat(list(calls)).flatten()


def after_cls(_: PreTrainedModel, __: Inputs, calls: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, " n"]:
    """A patch is a token; the class token before them is none."""
    return torch.cat(list(calls))[:, 1:].flatten()


def pooled(method: str) -> ToGrid:
    """Patches are pooled by the model's own method, frame by frame."""

    def to_grid(model: PreTrainedModel, _: Inputs, calls: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, " n"]:
        return getattr(model.model, method)(torch.cat(list(calls))[..., None]).flatten()

    return to_grid


def merged(model: PreTrainedModel, _: Inputs, calls: Sequence[Float[Tensor, "_ _"]]) -> Float[Tensor, " n"]:
    """Qwen: the mean over each token's square of patches, which follow one another."""
    square_size = model.config.vision_config.spatial_merge_size**2
    return torch.cat([call.flatten() for call in calls]).view(-1, square_size).mean(1)


def merged_windows(
    model: PreTrainedModel, inputs: Inputs, calls: Sequence[Float[Tensor, "_ _"]]
) -> Float[Tensor, " n"]:
    """Qwen2.5: the same, but its tower works window by window; back to the raster."""
    vision = model.config.vision_config
    grid = inputs.get("video_grid_thw", inputs.get("image_grid_thw"))
    order, _ = get_vision_window_index(grid, vision.spatial_merge_size, vision.window_size, vision.patch_size)
    return merged(model, inputs, calls)[torch.argsort(order)]
