"""What a medium of some size is to a model: its token grid, and the input of its tower; no processor and no pixels.

Most towers read every frame at one size, whatever came in. Others take a frame at its own size, as patches packed into
one sequence. In both, what one pass of the tower reads is not seen by the next, so that one pass prices all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from tokenlab.compressors.stages import Size
from tokenlab.errors import UserError
from tokenlab.models.families import Family, MediaSpec
from tokenlab.models.families.grids import OUTSIDE, Places, grid_shape, raster
from tokenlab.models.families.qwen import encode_native
from tokenlab.models.vision.tower import blocks_read

DEFAULT_RESOLUTION = (448, 448)
MOST_TOKENS_A_FRAME = 16_384  # what the processors of families with native resolution allow
FLATTEST = 200  # longer side / shorter side; those processors refuse more


@dataclass(frozen=True)
class MediumShape:
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
    def on_grid(self) -> Int[Tensor, "n 3"]:
        """The places of its tokens without separators."""
        return self.places[self.places[:, 0] != OUTSIDE]

    @property
    def num_tokens(self) -> int:
        """Visual tokens in all, separators included."""
        return len(self.places)


@dataclass(frozen=True)
class ReducibleTower:
    """A tower whose frames may lose tokens on the way.

    Attributes:
        depth: Blocks in all.
        read: Blocks before the features that the LLM reads.
        protected: Leading tokens of every frame, which may not go.
    """

    depth: int
    read: int
    protected: int


@dataclass(frozen=True)
class VisionCostModel(ABC):
    """Tower and projector of a model, as far as their cost goes."""

    config: PretrainedConfig
    family: Family

    @property
    @abstractmethod
    def default_resolution(self) -> Size:
        """Of a picture of which nothing else is known."""

    @abstractmethod
    def shape(self, frames: int, resolution: Size | None = None, is_image: bool = False) -> MediumShape:
        """The medium that so many frames make, or one image; raises UserError for a resolution that cannot be."""

    def tower(self, model: PreTrainedModel) -> nn.Module:
        """The vision tower."""
        return self.family.tower_of(model)

    def blocks(self, model: PreTrainedModel) -> nn.ModuleList:
        """The blocks of the tower; of the one that reads videos, where there are two."""
        return self.family.blocks_of(model, self.family.video or self.family.image)

    def reducible_tower(self, model: PreTrainedModel) -> ReducibleTower | None:
        """The shape of a tower that may lose tokens; None where what stands behind it counts them."""
        if not self.family.norm:
            return None
        depth = len(self.blocks(model))
        return ReducibleTower(depth, blocks_read(self.config, depth), int(self.family.has_cls))

    def token_wise_projector(self, model: PreTrainedModel) -> nn.Module | None:
        """The projector, if it takes tokens one by one."""
        return self.family.projector_of(model)

    def tower_modules(self, model: PreTrainedModel) -> list[nn.Module]:
        """The modules in which `encode` does the tower's work."""
        tower = self.tower(model)
        return [attrgetter(name)(tower) for name in self.family.tower_parts] or [tower]

    @abstractmethod
    def projectors(self, model: PreTrainedModel) -> list[nn.Module]:
        """Modules inside the tower that belong to the projector."""

    @abstractmethod
    def encode(self, model: PreTrainedModel, grid: Size, is_image: bool) -> int:
        """A few passes for this token grid through tower and projector of a model without weights; how many."""


@dataclass(frozen=True)
class FixedResolution(VisionCostModel):
    """Every frame is read at the tower's one size; the family's row says how."""

    @property
    def default_resolution(self) -> Size:
        """The tower's."""
        side = self.config.vision_config.image_size
        return (side, side) if isinstance(side, int) else (side[0], side[1])

    def shape(self, frames: int, resolution: Size | None = None, is_image: bool = False) -> MediumShape:
        """The resolution matters for an image alone, and only where the family cuts images into tiles."""
        spec = self.family.image if is_image else self.family.video
        if spec is None:
            raise UserError(f"--frames: {self.family.name} reads no videos; give 1, an image")
        inputs, passes = self._inputs(spec, frames, resolution or self.default_resolution)
        return MediumShape(spec.places(self.config, inputs), passes, self.default_resolution)

    def _inputs(self, spec: MediaSpec, frames: int, size: Size) -> tuple[dict[str, Tensor], int]:
        """What the processor would make of frames or an image, in shape; and how many pictures the tower reads."""
        pinpoints = getattr(self.config, "image_grid_pinpoints", None)
        is_tiled = spec is self.family.image and pinpoints is not None
        if is_tiled:
            frames = 1 + math.prod(get_anyres_image_grid_shape(size, pinpoints, self.default_resolution[0]))
        pixels: Float[Tensor, "t 3 h w"] = torch.empty((frames, 3, *self.default_resolution), device="meta")
        if is_tiled:
            return {"pixel_values": pixels[None], "image_sizes": torch.tensor([size])}, frames
        return {"pixel_values": pixels} if spec.encoder == "image" else {"pixel_values_videos": pixels[None]}, frames

    def projectors(self, model: PreTrainedModel) -> list[nn.Module]:
        """None: the projector follows the tower."""
        return []

    def encode(self, model: PreTrainedModel, grid: Size, is_image: bool) -> int:
        """One frame, or an image with its tiles; each is of the tower's own size, whatever the grid."""
        spec = self.family.image if is_image or self.family.video is None else self.family.video
        inputs, passes = self._inputs(spec, 1, self.default_resolution)
        (self.family.encode_shapes or spec.encode)(model, inputs)
        return passes


@dataclass(frozen=True)
class NativeResolution(VisionCostModel):
    """Frames at their own size; a few frames make one time step, a square of patches one token."""

    @property
    def default_resolution(self) -> Size:
        """A common one."""
        return DEFAULT_RESOLUTION

    def shape(self, frames: int, resolution: Size | None = None, is_image: bool = False) -> MediumShape:
        """Sides are rounded to whole tokens, as the processor rounds them; its limits on pixels are not applied."""
        vision = self.config.vision_config
        side = vision.patch_size * vision.spatial_merge_size
        height, width = resolution or self.default_resolution
        if max(height, width) > FLATTEST * min(height, width):
            raise UserError(
                f"--resolution: {self.family.name} refuses sides of more than {FLATTEST} to 1, got {width}x{height}"
            )
        rows, columns = max(1, round(height / side)), max(1, round(width / side))
        if rows * columns > MOST_TOKENS_A_FRAME:
            raise UserError(
                f"--resolution: {width}x{height} makes {rows * columns:,} visual tokens of a frame; {self.family.name} "
                f"reads at most {MOST_TOKENS_A_FRAME:,}"
            )
        time_steps = math.ceil(frames / vision.temporal_patch_size)
        return MediumShape(raster(time_steps, rows, columns), time_steps, (rows * side, columns * side))

    def projectors(self, model: PreTrainedModel) -> list[nn.Module]:
        """The mergers, which bring patches to tokens of the LLM's width."""
        tower: Any = self.tower(model)
        return [tower.merger, *getattr(tower, "deepstack_merger_list", ())]

    def encode(self, model: PreTrainedModel, grid: Size, is_image: bool) -> int:
        """One time step."""
        encode_native(model, grid)
        return 1


def vision_cost_model(config: PretrainedConfig, family: Family) -> VisionCostModel:
    """The vision side of a checkpoint, by its family's row."""
    return NativeResolution(config, family) if family.native_resolution else FixedResolution(config, family)
