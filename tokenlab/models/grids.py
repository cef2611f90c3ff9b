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

Calls = Sequence[Float[Tensor, "_ _ c"]]
"""Values per patch, as a layer's attention saw the patches, call by call."""

ToGrid = Callable[[PreTrainedModel, Inputs, Calls], Float[Tensor, "n c"]]
"""From values per patch to values per grid token."""

OUTSIDE = -1


def raster(frames: int, rows: int, columns: int, first_frame: int = 0) -> Places:
    """Frame by frame, row by row."""
    places = np.indices((frames, rows, columns)).reshape(3, -1).T
    return places + np.array([first_frame, 0, 0])


def grid_shape(places: Places) -> tuple[int, int, int]:
    """Frames, rows and columns that hold every place."""
    frames, rows, columns = (places.max(axis=0) + 1).tolist()
    return frames, rows, columns


def with_newlines(places: Places, lines: int) -> Places:
    """A token outside the grid after each of so many equal lines, which may be empty."""
    outside = np.full((lines, 1, 3), OUTSIDE)
    return np.concatenate([places.reshape(lines, len(places) // max(1, lines), 3), outside], axis=1).reshape(-1, 3)


def patch_rows(config: PretrainedConfig) -> int:
    """Patches along a side of the tower's square input."""
    vision = config.vision_config
    size = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    return size // patch


def square(config: PretrainedConfig, inputs: Inputs) -> Places:
    """Every patch of every picture."""
    side = patch_rows(config)
    return raster(len(inputs.get("pixel_values", inputs.get("pixel_values_images"))), side, side)


def with_cls(config: PretrainedConfig, inputs: Inputs) -> Places:
    """Video-LLaVA: every patch of every frame, and before each frame the tower's class token, outside the grid."""
    side, frames = patch_rows(config), inputs["pixel_values_videos"].shape[1]
    return with_newlines(raster(frames, side, side)[::-1], frames)[::-1].copy()


def pooled_frames(config: PretrainedConfig, inputs: Inputs) -> Places:
    """LLaVA-NeXT-Video: frames pooled by the configured stride."""
    side = patch_rows(config) // config.spatial_pool_stride
    return raster(inputs["pixel_values_videos"].shape[1], side, side)


def pooled_video(config: PretrainedConfig, inputs: Inputs) -> Places:
    """LLaVA-OneVision: frames pooled to half, one newline at the very end."""
    side = math.ceil(patch_rows(config) / 2)
    places = raster(inputs["pixel_values_videos"].shape[1], side, side)
    return with_newlines(places, 1)


def tiles(config: PretrainedConfig, inputs: Inputs) -> Places:
    """InternVL, SmolVLM: frames or tiles of one size, squares of patches shuffled into tokens."""
    side = patch_rows(config) // _shuffle(config)
    return raster(inputs["pixel_values"].flatten(0, -4).shape[0], side, side)


def _shuffle(config: PretrainedConfig) -> int:
    """Patches along a side of a token."""
    return round(1 / config.downsample_ratio) if hasattr(config, "downsample_ratio") else config.scale_factor


def any_resolution(config: PretrainedConfig, inputs: Inputs) -> Places:
    """The whole image as frame 0; then its tiles as one mosaic without padding, a newline after every row."""
    side = patch_rows(config)
    size = torch.as_tensor(inputs["image_sizes"])[0].tolist()
    base = raster(1, side, side)
    if inputs["pixel_values"].shape[1] == 1:
        return with_newlines(base, 1)
    tiles = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
    _, rows, columns = unpad_image(torch.empty(1, tiles[0] * side, tiles[1] * side), size).shape
    limit = getattr(config, "vision_aspect_ratio", "")
    if limit.startswith("anyres_max_"):  # LLaVA-OneVision shrinks large mosaics
        shrink = math.sqrt(rows * columns / (int(limit.removeprefix("anyres_max_")) * side**2))
        if shrink > 1.1:
            rows, columns = int(rows // shrink), int(columns // shrink)
    return np.concatenate([base, with_newlines(raster(1, rows, columns, first_frame=1), rows)])


def merged_patches(config: PretrainedConfig, inputs: Inputs) -> Places:
    """Qwen: squares of patches are one token; the processor says how many patches there are."""
    ((frames, rows, columns),) = (inputs.get("video_grid_thw", inputs.get("image_grid_thw"))).tolist()
    merge = config.vision_config.spatial_merge_size
    return raster(frames, rows // merge, columns // merge)


def patches(_: PreTrainedModel, __: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """A patch is a token."""
    return torch.cat(list(calls)).flatten(0, 1)


def after_cls(_: PreTrainedModel, __: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """A patch is a token; the class token before them is none."""
    return torch.cat(list(calls))[:, 1:].flatten(0, 1)


def pooled(model: PreTrainedModel, _: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """LLaVA-OneVision: pooled by the model's own method, frame by frame."""
    return model.model.apply_pooling(torch.cat(list(calls))).flatten(0, 1)


def resampled(model: PreTrainedModel, _: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """LLaVA-NeXT-Video: pooled by the model's own resampler, without the class token."""
    return model.model.vision_resampler(torch.cat(list(calls))[:, 1:]).flatten(0, 1)


def shuffled(model: PreTrainedModel, _: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """InternVL, SmolVLM: the mean over each token's square of patches, without a class token if there is one."""
    values, side, square_side = torch.cat(list(calls)), patch_rows(model.config), _shuffle(model.config)
    values = values[:, values.shape[1] - side**2 :].unflatten(1, (side // square_side, square_side, -1, square_side))
    return values.mean((2, 4)).flatten(0, 2)


def mosaic(model: PreTrainedModel, inputs: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """LLaVA-NeXT: the base tile, and the others put together and cut like the tokens; shrunk where those are."""
    config, values = model.config, torch.cat(list(calls))
    side = patch_rows(config)
    values = values[:, values.shape[1] - side**2 :].unflatten(1, (side, side))
    if len(values) == 1:
        return values.flatten(0, 2)
    size = torch.as_tensor(inputs["image_sizes"])[0].tolist()
    height, width = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
    whole = values[1 : 1 + height * width].unflatten(0, (height, width)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    cut = unpad_image(whole.movedim(-1, 0), size)
    places = any_resolution(config, inputs)
    in_mosaic = places[places[:, 0] == 1]
    if not len(in_mosaic):  # an image so thin that nothing of it is left without padding
        return values[0].flatten(0, 1)
    rows, columns = (in_mosaic.max(axis=0) + 1)[1:].tolist()
    if cut.shape[1:] != (rows, columns):
        cut = torch.nn.functional.interpolate(cut[None], (rows, columns), mode="bilinear")[0]
    return torch.cat([values[0].flatten(0, 1), cut.movedim(0, -1).flatten(0, 1)])


def merged(model: PreTrainedModel, _: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """Qwen: the mean over each token's square of patches, which follow one another."""
    square_size = model.config.vision_config.spatial_merge_size**2
    return torch.cat([call.flatten(0, 1) for call in calls]).unflatten(0, (-1, square_size)).mean(1)


def merged_windows(model: PreTrainedModel, inputs: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """Qwen2.5: the same, but its tower works window by window; back to the raster."""
    vision = model.config.vision_config
    grid = inputs.get("video_grid_thw", inputs.get("image_grid_thw"))
    order, _ = get_vision_window_index(grid, vision.spatial_merge_size, vision.window_size, vision.patch_size)
    return merged(model, inputs, calls)[torch.argsort(order)]
