"""LLaVA and what came of it: square towers whose patches become tokens one to one, pooled, or laid out as a mosaic."""

from __future__ import annotations

import math
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

from tokenlab.models.families.base import Family, MediaSpec
from tokenlab.models.families.grids import (
    Calls,
    Inputs,
    Places,
    Tiles,
    after_cls,
    patch_rows,
    raster,
    square,
    with_newlines,
)
from tokenlab.models.families.splitting import pixel_rows, tile_rows, tiled_images


def with_cls(config: PretrainedConfig, inputs: Inputs) -> Places:
    """Video-LLaVA: every patch of every frame, and before each frame the tower's class token, outside the grid."""
    side, frames = patch_rows(config), inputs["pixel_values_videos"].shape[1]
    return with_newlines(raster(frames, side, side).flip(0), frames).flip(0)


def pooled_frames(config: PretrainedConfig, inputs: Inputs) -> Places:
    """LLaVA-NeXT-Video: frames pooled by the configured stride."""
    side = patch_rows(config) // config.spatial_pool_stride
    return raster(inputs["pixel_values_videos"].shape[1], side, side)


def pooled_video(config: PretrainedConfig, inputs: Inputs) -> Places:
    """LLaVA-OneVision: frames pooled to half, one newline at the very end."""
    side = math.ceil(patch_rows(config) / 2)
    return with_newlines(raster(inputs["pixel_values_videos"].shape[1], side, side), 1)


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
    return torch.cat([base, with_newlines(raster(1, rows, columns, first_frame=1), rows)])


def mosaic_tiles(config: PretrainedConfig, inputs: Inputs, places: Places) -> Tiles | None:
    """The whole image is tile 0; a token of the mosaic is of the tile in which its middle lies."""
    in_mosaic = places[:, 0] == 1
    if not bool(in_mosaic.any()):
        return None
    side, size = patch_rows(config), torch.as_tensor(inputs["image_sizes"])[0].tolist()
    tiles = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
    whole = [side * each for each in tiles]
    unpadded = unpad_image(torch.empty(1, *whole), size).shape[1:]
    shrunk = (places[in_mosaic].amax(dim=0) + 1)[1:]
    middle = (places[in_mosaic, 1:] + 0.5) * torch.tensor(unpadded) / shrunk
    middle += torch.tensor([(all_ - left) // 2 for all_, left in zip(whole, unpadded, strict=True)])
    row, column = (middle // side).long().unbind(1)
    tile, within = torch.zeros(len(places), dtype=torch.long), places[:, 1:].clone()
    tile[in_mosaic] = 1 + row * tiles[1] + column
    within[in_mosaic] = (middle % side).long()
    return Tiles(tile, within, 0, (tiles[0], tiles[1]))


def pooled(model: PreTrainedModel, _: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """LLaVA-OneVision: pools patches by the model's own method, frame by frame."""
    return model.model.apply_pooling(torch.cat(list(calls))).flatten(0, 1)


def resampled(model: PreTrainedModel, _: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """LLaVA-NeXT-Video: pools patches by the model's own resampler, without the class token."""
    return model.model.vision_resampler(torch.cat(list(calls))[:, 1:]).flatten(0, 1)


def mosaic(model: PreTrainedModel, inputs: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """LLaVA-NeXT: the base tile, then the others put together, and cut and shrunk as the tokens are."""
    config, values = model.config, torch.cat(list(calls))
    side = patch_rows(config)
    values = values[:, values.shape[1] - side**2 :].unflatten(1, (side, side))
    if len(values) == 1:
        return values.flatten(0, 2)
    size = torch.as_tensor(inputs["image_sizes"])[0].tolist()
    height, width = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
    whole = values[1 : 1 + height * width].unflatten(0, (height, width)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    unpadded = unpad_image(whole.movedim(-1, 0), size)
    places = any_resolution(config, inputs)
    in_mosaic = places[places[:, 0] == 1]
    if not len(in_mosaic):  # an image so thin that nothing of it is left without padding
        return values[0].flatten(0, 1)
    rows, columns = (in_mosaic.amax(dim=0) + 1)[1:].tolist()
    if unpadded.shape[1:] != (rows, columns):
        unpadded = torch.nn.functional.interpolate(unpadded[None], (rows, columns), mode="bilinear")[0]
    return torch.cat([values[0].flatten(0, 1), unpadded.movedim(0, -1).flatten(0, 1)])


PICTURE = partial(
    MediaSpec, "image", encoder="image", placeholder="image_token_id", places=square, split=tile_rows, to_grid=after_cls
)
"""A picture of the tower's own size; its patches are its tokens."""

MOSAIC = MediaSpec(
    "image",
    frames_as_images=False,
    encoder="image",
    placeholder="image_token_id",
    places=any_resolution,
    split=tiled_images,
    to_grid=mosaic,
    projector_to_grid=mosaic,
    tiles=mosaic_tiles,
)
"""LLaVA-NeXT's way with images, which others took over."""

VIDEO = partial(
    MediaSpec,
    "video",
    frames_as_images=False,
    encoder="video",
    placeholder="video_token_id",
    split=pixel_rows,
)

FAMILIES: dict[str, Family] = {
    "llava": Family(
        name="LLaVA-1.5",
        image=PICTURE(frames_as_images=False),
        video=PICTURE(frames_as_images=True),
        projector="model.multi_modal_projector",
        tower="model.vision_tower",
        blocks="model.vision_tower.encoder.layers",
        norm="layer_norm2",
        has_cls=True,
    ),
    "llava_next": Family(
        name="LLaVA-NeXT",
        image=MOSAIC,
        follows_size=True,
        video=None,
        projector="model.multi_modal_projector",
        tower="model.vision_tower",
        blocks="model.vision_tower.encoder.layers",
        has_cls=True,
    ),
    "llava_next_video": Family(
        name="LLaVA-NeXT-Video",
        image=MOSAIC,
        follows_size=True,
        video=VIDEO(places=pooled_frames, to_grid=resampled),
        projector="model.multi_modal_projector",
        tower="model.vision_tower",
        blocks="model.vision_tower.encoder.layers",
        has_cls=True,
    ),
    "llava_onevision": Family(
        name="LLaVA-OneVision",
        image=MOSAIC,
        follows_size=True,
        video=VIDEO(places=pooled_video, batched_features=True, to_grid=pooled),
        tower="model.vision_tower",
        blocks="model.vision_tower.encoder.layers",
        siglip=True,
    ),
    "video_llava": Family(
        name="Video-LLaVA",
        image=PICTURE(
            frames_as_images=False, split=pixel_rows, batched_features=True, blocks="model.image_tower.encoder.layers"
        ),
        video=VIDEO(places=with_cls, batched_features=True, to_grid=after_cls, projector_to_grid=after_cls),
        projector="model.multi_modal_projector",
        tower="model.video_tower",
        blocks="model.video_tower.encoder.layers",
        norm="layer_norm2",
        has_cls=True,
    ),
}
