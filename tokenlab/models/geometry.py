"""What a frame of some size is to a model: its token grid, and the input of its tower; no processor and no pixels.

There are two kinds of vision side. Most towers read every frame at one size, whatever came in: the family's row says
the rest. Others take a frame at its own size, as patches packed into one sequence; their checkpoints' configs say how.
In both, what one pass of the tower reads is not seen by the next, so that one pass prices all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from tokenlab.errors import UserError
from tokenlab.models.blocks import blocks_read
from tokenlab.models.families import FAMILIES, Family, Reading
from tokenlab.models.grids import OUTSIDE, Places, grid_shape, patch_rows, raster

Size = tuple[int, int]
"""Height and width, or rows and columns."""

PACKED_PATCHES = {"qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
"""Families whose tower reads packed patches at the frame's own size, by `model_type`; they share their parts' names."""

READS_VALUES = ("smolvlm",)
"""Families whose encoder branches on the values of pixels, which a model without weights does not have: its parts are
called one by one."""

DEFAULT_RESOLUTION = (448, 448)
MOST_TOKENS_A_FRAME = 16_384  # what those families' own processors allow
FLATTEST = 200  # longer side / shorter side; their processors refuse more


@dataclass(frozen=True)
class Layout:
    """How one medium reaches the LLM.

    Attributes:
        places: Where its visual tokens lie on the token grid, in prompt order.
        passes: How often the tower runs for it: once a frame, a tile or a few frames taken together.
        resolution: Height and width of what the tower reads each time.
    """

    places: Places
    passes: int
    resolution: Size

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the token grid."""
        return grid_shape(self.places)

    @property
    def on_grid(self) -> Places:
        """The places of its tokens without separators."""
        return self.places[self.places[:, 0] != OUTSIDE]

    @property
    def num_tokens(self) -> int:
        """Visual tokens in all, separators included."""
        return len(self.places)


@dataclass(frozen=True)
class TowerShape:
    """A tower whose frames may lose tokens on the way.

    Attributes:
        depth: Blocks in all.
        read: Blocks before the features that the LLM reads.
        protected: Leading tokens of every frame, which may not go.
    """

    depth: int
    read: int
    protected: int


class VisionSide(ABC):
    """Tower and projector of a model, as far as their cost goes."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The family's name."""

    @abstractmethod
    def layout(self, frames: int, resolution: Size | None = None, still: bool = False) -> Layout:
        """The medium that so many frames make, or one image; raises UserError for a resolution that cannot be."""

    @abstractmethod
    def tower(self, model: PreTrainedModel) -> nn.Module:
        """The vision tower."""

    @abstractmethod
    def blocks(self, model: PreTrainedModel) -> nn.ModuleList:
        """The blocks of the tower."""

    def inside(self, model: PreTrainedModel) -> TowerShape | None:
        """The shape of a tower that may lose tokens; None where what stands behind it counts them."""
        return None

    def token_wise_projector(self, model: PreTrainedModel) -> nn.Module | None:
        """The projector, if it takes tokens one by one."""
        return None

    @abstractmethod
    def counted(self, model: PreTrainedModel) -> list[nn.Module]:
        """The modules in which `encode` does the tower's work."""

    @abstractmethod
    def projectors(self, model: PreTrainedModel) -> list[nn.Module]:
        """Modules inside the tower that belong to the projector."""

    @abstractmethod
    def encode(self, model: PreTrainedModel, grid: Size, still: bool) -> int:
        """A few passes for this token grid through tower and projector of a model without weights; how many."""


@dataclass(frozen=True)
class FixedFrames(VisionSide):
    """Every frame is read at the tower's one size; the family's row says how."""

    config: PretrainedConfig
    family: Family

    @property
    def name(self) -> str:
        """The family's."""
        return self.family.name

    @property
    def _resolution(self) -> Size:
        side = self.config.vision_config.image_size
        return (side, side) if isinstance(side, int) else tuple(side)

    def layout(self, frames: int, resolution: Size | None = None, still: bool = False) -> Layout:
        """The resolution matters for an image alone, and only where the family cuts images into tiles."""
        reading = self.family.image if still else self.family.video
        if reading is None:
            raise UserError(f"--frames: {self.name} reads no videos; give 1, an image")
        inputs, passes = self._inputs(reading, frames, resolution or self._resolution)
        return Layout(reading.places(self.config, inputs), passes, self._resolution)

    def _inputs(self, reading: Reading, frames: int, size: Size) -> tuple[dict[str, Tensor], int]:
        """What the processor would make of frames or an image, in shape; and how many pictures the tower reads."""
        pinpoints = getattr(self.config, "image_grid_pinpoints", None)
        is_tiled = reading is self.family.image and pinpoints is not None
        if is_tiled:
            frames = 1 + math.prod(get_anyres_image_grid_shape(size, pinpoints, self._resolution[0]))
        pixels = torch.empty((frames, 3, *self._resolution), device="meta")
        if is_tiled:
            return {"pixel_values": pixels[None], "image_sizes": torch.tensor([size])}, frames
        return {"pixel_values": pixels} if reading.encoder == "image" else {"pixel_values_videos": pixels[None]}, frames

    def tower(self, model: PreTrainedModel) -> nn.Module:
        """Where the family's row says it is."""
        return self.family.tower_of(model)

    def blocks(self, model: PreTrainedModel) -> nn.ModuleList:
        """Of the tower that reads videos, where there are two."""
        return self.family.blocks_of(model, self.family.video or self.family.image)

    def inside(self, model: PreTrainedModel) -> TowerShape | None:
        """Where the family's row names a norm to cut at."""
        if not self.family.norm:
            return None
        depth = len(self.blocks(model))
        return TowerShape(depth, blocks_read(self.config, depth), int(self.family.has_cls))

    def token_wise_projector(self, model: PreTrainedModel) -> nn.Module | None:
        """As the family's row says."""
        return self.family.projector_of(model)

    def counted(self, model: PreTrainedModel) -> list[nn.Module]:
        """The tower, or its parts."""
        tower: Any = self.tower(model)
        return [tower.embeddings, tower.encoder] if self.config.model_type in READS_VALUES else [tower]

    def projectors(self, model: PreTrainedModel) -> list[nn.Module]:
        """None: the projector follows the tower."""
        return []

    def encode(self, model: PreTrainedModel, grid: Size, still: bool) -> int:
        """One frame, or an image with its tiles; each is of the tower's own size, whatever the grid."""
        reading = self.family.image if still or self.family.video is None else self.family.video
        inputs, passes = self._inputs(reading, 1, self._resolution)
        if self.config.model_type in READS_VALUES:
            tower: Any = self.tower(model)
            side = patch_rows(self.config)
            every_patch = torch.ones((1, side, side), dtype=torch.bool, device="meta")
            embedded = tower.embeddings(inputs["pixel_values"], every_patch)
            hidden = tower.encoder(inputs_embeds=embedded).last_hidden_state
            model.model.connector(tower.post_layernorm(hidden))
        else:
            reading.encode(model, inputs)
        return passes


@dataclass(frozen=True)
class PackedPatches(VisionSide):
    """Frames at their own size; a few frames make one step in time, a square of patches one token."""

    config: PretrainedConfig

    @property
    def name(self) -> str:
        """The family's."""
        return PACKED_PATCHES[self.config.model_type]

    def layout(self, frames: int, resolution: Size | None = None, still: bool = False) -> Layout:
        """Sides are rounded to whole tokens, as the processor rounds them; its limits on pixels are not applied."""
        vision = self.config.vision_config
        side = vision.patch_size * vision.spatial_merge_size
        height, width = resolution or DEFAULT_RESOLUTION
        if max(height, width) > FLATTEST * min(height, width):
            raise UserError(
                f"--resolution: {self.name} refuses sides of more than {FLATTEST} to 1, got {width}x{height}"
            )
        rows, columns = max(1, round(height / side)), max(1, round(width / side))
        if rows * columns > MOST_TOKENS_A_FRAME:
            raise UserError(
                f"--resolution: {width}x{height} makes {rows * columns:,} visual tokens of a frame; {self.name} reads "
                f"at most {MOST_TOKENS_A_FRAME:,}"
            )
        steps = math.ceil(frames / vision.temporal_patch_size)
        return Layout(raster(steps, rows, columns), steps, (rows * side, columns * side))

    def tower(self, model: PreTrainedModel) -> nn.Module:
        """With its mergers."""
        return model.model.visual

    def blocks(self, model: PreTrainedModel) -> nn.ModuleList:
        """All of them."""
        visual: Any = model.model.visual
        return visual.blocks

    def counted(self, model: PreTrainedModel) -> list[nn.Module]:
        """All of it."""
        return [self.tower(model)]

    def projectors(self, model: PreTrainedModel) -> list[nn.Module]:
        """The mergers, which bring patches to tokens of the LLM's width."""
        visual: Any = model.model.visual
        return [visual.merger, *getattr(visual, "deepstack_merger_list", ())]

    def encode(self, model: PreTrainedModel, grid: Size, still: bool) -> int:
        """One step in time; what depends on the grid's values alone is worked out on the CPU beforehand."""
        vision = self.config.vision_config
        merge = vision.spatial_merge_size
        height, width = (merge * side for side in grid)
        channels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        patches = torch.empty((height * width, channels), device="meta", dtype=model.dtype)
        steps = torch.tensor([[1, height, width]])
        model.model.visual(patches, grid_thw=steps, **self._indices(steps))
        return 1

    def _indices(self, steps: Tensor) -> dict[str, Tensor]:
        """Transformers' own index tensors: on the meta device, but for the segment lengths, whose values are read."""
        vision = self.config.vision_config
        merge = vision.spatial_merge_size
        indices = {"position_ids": get_vision_position_ids(steps, merge).to("meta")}
        if hasattr(vision, "window_size"):
            order, segments = get_vision_window_index(steps, merge, vision.window_size, vision.patch_size)
            indices |= {"window_index": order.to("meta"), "cu_window_seqlens": segments}
        if hasattr(vision, "num_position_embeddings"):
            side = math.isqrt(vision.num_position_embeddings)
            taps, weights = get_vision_interpolation_indices_and_weights(steps, side, spatial_merge_size=merge)
            indices |= {"interp_indices": taps.to("meta"), "interp_weights": weights.to("meta")}
        return indices


def vision_side(config: PretrainedConfig, family: Family | None = None) -> VisionSide:
    """The vision side of a checkpoint, by its family's row if it has one; raises UserError where none is known."""
    if config.model_type in PACKED_PATCHES:
        return PackedPatches(config)
    family = family or FAMILIES.get(config.model_type)
    if family is None:
        known = ", ".join(sorted({*FAMILIES, *PACKED_PATCHES}))
        raise UserError(f"--checkpoint: model type {config.model_type!r} cannot be priced; known: {known}")
    return FixedFrames(config, family)
