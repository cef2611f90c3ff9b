"""Qwen-VL: frames at their own size, patches packed into one sequence, squares of patches merged into tokens."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from tokenlab.compressors.stages import Size
from tokenlab.models.families.base import Family, MediaSpec
from tokenlab.models.families.grids import Calls, Inputs, Places, ToGrid, raster
from tokenlab.models.families.splitting import packed_patches


def merged_patches(config: PretrainedConfig, inputs: Inputs) -> Places:
    """Squares of patches are one token; the processor says how many patches there are."""
    frames, rows, columns = _grid_thw(inputs)[0].tolist()
    merge = config.vision_config.spatial_merge_size
    return raster(frames, rows // merge, columns // merge)


def merged(model: PreTrainedModel, _: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """Averages over each token's square of patches, which follow one another."""
    square_size = model.config.vision_config.spatial_merge_size**2
    return torch.cat([call.flatten(0, 1) for call in calls]).unflatten(0, (-1, square_size)).mean(1)


def merged_windows(model: PreTrainedModel, inputs: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """Qwen2.5: the same, back from the windows in which its tower works to the raster."""
    vision = model.config.vision_config
    grid = _grid_thw(inputs)
    order, _ = get_vision_window_index(grid, vision.spatial_merge_size, vision.window_size, vision.patch_size)
    return merged(model, inputs, calls)[torch.argsort(order)]


def pixel_change(config: PretrainedConfig, inputs: Inputs) -> Float[Tensor, "n channels"]:
    """Differences over each token's square of patches, from the first frame of the step before to its own last one."""
    vision, grid = config.vision_config, _grid_thw(inputs)[0].tolist()
    (patches,) = (value.float() for name, value in inputs.items() if name.startswith("pixel_values"))
    tokens = patches.unflatten(0, (grid[0], -1, vision.spatial_merge_size**2))
    pixels = tokens.unflatten(-1, (vision.in_channels, vision.temporal_patch_size, -1))  # t n square c together pixels
    change = (pixels[1:, ..., -1, :] - pixels[:-1, ..., 0, :]).abs().mean((2, -1))
    return torch.cat([torch.full_like(pixels[:1, :, 0, :, 0, 0], torch.inf), change]).flatten(0, 1)


def _grid_thw(inputs: Inputs) -> Int[Tensor, "m 3"]:
    return inputs["video_grid_thw"] if "video_grid_thw" in inputs else inputs["image_grid_thw"]


def encode_native(model: PreTrainedModel, grid: Size) -> None:
    """Runs the tower without weights on one step in time, of so many rows and columns of tokens.

    Index tensors, which depend on the grid's values alone, are transformers' own and worked out on the CPU beforehand.
    """
    vision = model.config.vision_config
    height, width = (vision.spatial_merge_size * side for side in grid)
    channels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    patches = torch.empty((height * width, channels), device="meta", dtype=model.dtype)
    steps = torch.tensor([[1, height, width]])
    model.model.visual(patches, grid_thw=steps, **_index_tensors(vision, steps))


def _index_tensors(vision: Any, steps: Int[Tensor, "1 3"]) -> dict[str, Tensor]:
    """Transformers' index tensors: on the meta device, but for the segment lengths, whose values are read."""
    merge = vision.spatial_merge_size
    indices = {"position_ids": get_vision_position_ids(steps, merge).to("meta")}
    if hasattr(vision, "window_size"):
        order, segments = get_vision_window_index(steps, merge, vision.window_size, vision.patch_size)
        indices |= {"window_index": order.to("meta"), "cu_window_seqlens": segments}
    if hasattr(vision, "num_position_embeddings"):
        side = round(vision.num_position_embeddings**0.5)
        taps, weights = get_vision_interpolation_indices_and_weights(steps, side, spatial_merge_size=merge)
        indices |= {"interp_indices": taps.to("meta"), "interp_weights": weights.to("meta")}
    return indices


def _family(
    name: str, to_grid: ToGrid = merged, video_inputs: tuple[str, ...] = (), deepstack: bool = False, **video: Any
) -> Family:
    shared: dict[str, Any] = {
        "frames_as_images": False,
        "places": merged_patches,
        "split": packed_patches,
        "to_grid": to_grid,
        "token_types": True,
        "pixel_change": pixel_change,
    }
    return Family(
        name=name,
        image=MediaSpec(
            "image", encoder="image", placeholder="image_token_id", llm_inputs=("image_grid_thw",), **shared
        ),
        video=MediaSpec(
            "video",
            encoder="video",
            placeholder="video_token_id",
            llm_inputs=("video_grid_thw", *video_inputs),
            **shared,
            **video,
        ),
        tower="model.visual",
        blocks="model.visual.blocks",
        attention="attn",
        mrope=True,
        deepstack=deepstack,
        native_resolution=True,
        follows_size=True,
    )


FAMILIES: dict[str, Family] = {
    "qwen2_vl": _family("Qwen2-VL"),
    "qwen2_5_vl": _family("Qwen2.5-VL", merged_windows, video_inputs=("second_per_grid_ts",)),
    "qwen3_vl": _family("Qwen3-VL", deepstack=True, min_frames=2, frame_suffix_tokens=1),
}
