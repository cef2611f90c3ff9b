"""Token grids: where a medium's visual tokens lie, and how what the tower says of its patches gets there.

What several lineages share; the others' stand in their own file. Places are in the order in which the tokens stand in
the prompt; tokens outside the grid, such as newlines, lie at (-1, -1, -1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

Places = Int[Tensor, "_ 3"]
Inputs = Mapping[str, Any]
"""What the checkpoint's processor made of one medium, or of a batch of prompts."""

Calls = Sequence[Float[Tensor, "_ _ c"]]
"""Values per patch, as a layer's attention saw the patches, call by call."""

ToGrid = Callable[[PreTrainedModel, Inputs, Calls], Float[Tensor, "n c"]]
"""From values per patch to values per grid token."""

OUTSIDE = -1


@dataclass(frozen=True)
class Tiles:
    """How an image was cut into tiles.

    Attributes:
        tile: For each grid token the number of its tile.
        within: Its row and column in there; of a token that several patches went into, where its middle lies.
        thumbnail: The number of the tile that shows the whole image.
        tile_grid: Rows and columns of the other tiles; None where the processor does not tell.
    """

    tile: Int[Tensor, " n"]
    within: Int[Tensor, "n 2"]
    thumbnail: int
    tile_grid: tuple[int, int] | None = None


def raster(frames: int, rows: int, columns: int, first_frame: int = 0) -> Places:
    """Lists places frame by frame, row by row.

    >>> raster(1, 1, 2).tolist()
    [[0, 0, 0], [0, 0, 1]]
    """
    axes = torch.meshgrid(*map(torch.arange, (frames, rows, columns)), indexing="ij")
    return torch.stack([axis.flatten() for axis in axes], dim=1) + torch.tensor([first_frame, 0, 0])


def grid_shape(places: Places) -> tuple[int, int, int]:
    """Frames, rows and columns that hold every place."""
    frames, rows, columns = (places.amax(dim=0) + 1).tolist()
    return frames, rows, columns


def with_newlines(places: Places, lines: int) -> Places:
    """Puts a token outside the grid after each of so many equal lines, which may be empty."""
    by_line = places.reshape(lines, len(places) // max(1, lines), 3)
    return torch.cat([by_line, torch.full((lines, 1, 3), OUTSIDE)], dim=1).reshape(-1, 3)


def patch_rows(config: PretrainedConfig) -> int:
    """Patches along a side of the tower's square input."""
    vision = config.vision_config
    size = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    return size // patch


def square(config: PretrainedConfig, inputs: Inputs) -> Places:
    """Every patch of every picture is a token."""
    side = patch_rows(config)
    return raster(len(inputs.get("pixel_values", inputs.get("pixel_values_images", ()))), side, side)


def patches(_: PreTrainedModel, __: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """Takes a patch for a token."""
    return torch.cat(list(calls)).flatten(0, 1)


def after_cls(_: PreTrainedModel, __: Inputs, calls: Calls) -> Float[Tensor, "n c"]:
    """Takes a patch for a token, and leaves out the class token before them."""
    return torch.cat(list(calls))[:, 1:].flatten(0, 1)
