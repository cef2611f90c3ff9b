"""InternVL and SmolVLM: images in tiles and videos as frames of one size, squares of patches shuffled into tokens."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from tokenlab.models.families.base import Family, MediaSpec
from tokenlab.models.families.grids import Calls, Inputs, Places, Tiles, patch_rows, raster
from tokenlab.models.families.splitting import nested_tile_rows, tile_rows


def tiles(config: PretrainedConfig, inputs: Inputs) -> Places:
    """Frames or tiles of one size, one after the other."""
    side = patch_rows(config) // _patches_a_side(config)
    return raster(inputs["pixel_values"].flatten(0, -4).shape[0], side, side)


def tile_a_frame(_: PretrainedConfig, __: Inputs, places: Places) -> Tiles | None:
    """Tiles are frames, and the last one shows the whole image."""
    last = int(places[-1, 0])
    return Tiles(places[:, 0], places[:, 1:], last) if last else None


def _patches_a_side(config: PretrainedConfig) -> int:
    """Patches along a side of a token."""
    return round(1 / config.downsample_ratio) if hasattr(config, "downsample_ratio") else config.scale_factor


def shuffled(model: PreTrainedModel, _: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """Averages over each token's square of patches, without a class token if there is one."""
    values, side, square_side = torch.cat(list(calls)), patch_rows(model.config), _patches_a_side(model.config)
    values = values[:, values.shape[1] - side**2 :].unflatten(1, (side // square_side, square_side, -1, square_side))
    return values.mean((2, 4)).flatten(0, 2)


def encode_smolvlm_shapes(model: PreTrainedModel, inputs: Inputs) -> None:
    """Runs SmolVLM's encoder part by part: as a whole it branches on the values of pixels."""
    tower: Any = model.model.vision_model
    side = patch_rows(model.config)
    every_patch = torch.ones((1, side, side), dtype=torch.bool, device="meta")
    embedded = tower.embeddings(inputs["pixel_values"], every_patch)
    hidden = tower.encoder(inputs_embeds=embedded).last_hidden_state
    model.model.connector(tower.post_layernorm(hidden))


def _spec(content: Any, split: Any = tile_rows, **more: Any) -> MediaSpec:
    return MediaSpec(
        content,
        split=split,
        frames_as_images=False,
        encoder="image",
        placeholder="image_token_id",
        places=tiles,
        to_grid=shuffled,
        **more,
    )


FAMILIES: dict[str, Family] = {
    "internvl": Family(
        name="InternVL3",
        image=_spec("image", batched_features=True, tiles=tile_a_frame, last_tile_token="end_image_token"),
        video=_spec("video", batched_features=True, frame_suffix_tokens=1, frame_separator_tokens=1),
        tower="model.vision_tower",
        blocks="model.vision_tower.encoder.layer",
        attention="attention",
        has_cls=True,
        follows_size=True,
    ),
    "smolvlm": Family(
        name="SmolVLM2",
        image=_spec(
            "image",
            nested_tile_rows,
            nested_images=True,
            frame_suffix_tokens=1,
            tiles=tile_a_frame,
            last_tile_token="global_image_token",
        ),
        video=_spec("video", nested_tile_rows, frame_suffix_tokens=1),
        tower="model.vision_model",
        blocks="model.vision_model.encoder.layers",
        siglip=True,
        encode_shapes=encode_smolvlm_shapes,
        tower_parts=("embeddings", "encoder"),
    ),
}
