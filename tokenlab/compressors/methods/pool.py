"""Average and bilinear pooling, the control for spatial merging: what a lower resolution would give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from tokenlab.compressors import FramesView, FrameWise, Reduction, ReductionKind, cells, in_medium, means


@dataclass(frozen=True, kw_only=True)
class Pool(FrameWise, name="pool"):
    """Averages the cells of an evenly divided grid, frame by frame; a cell stands at its middle token.

    Args:
        retention_ratio: Cells of a frame, which divide it as evenly as can be; `null` where there is a stride.
        stride: Side of a cell, as models pool their own tokens.
        mode: With a stride, the `average` of whole cells, without what is left over at the right and the bottom; or
            `bilinear`, which samples the grid at a lower resolution.
    """

    retention_ratio: float | None = None
    stride: int | None = None
    mode: Literal["average", "bilinear"] = "average"
    kind: ClassVar[ReductionKind] = "merge"
    needs_full_grid: ClassVar[bool] = True
    has_native_budget: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses no budget, or two."""
        super().__post_init__()
        if (self.retention_ratio is None) == (self.stride is None):
            raise ValueError(
                f"retention_ratio is {self.retention_ratio} and stride is {self.stride}: give one of the two"
            )
        if self.stride is not None:
            self.check_counts("stride")

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """A stride's count depends on a frame's shape."""
        return None if self.retention_ratio is None else super().kept(frame_sizes)

    def reduce_frames(self, view: FramesView) -> Reduction:
        """Every token goes to exactly one cell; with a stride, to those that it has a weight in."""
        frames, tokens = view.values.shape[:2]
        if self.stride is None:
            label, middle = cells(view.budget, *view.grid)
            return means(
                anchor=in_medium(middle.expand(frames, -1), tokens),
                label=in_medium(label.expand(frames, -1), view.budget),
            )
        row, column = (self._line(side).to(view.values.device) for side in view.grid)
        weight = torch.einsum("ay,bx->abyx", row, column).flatten(0, 1).flatten(1)
        slot, member = weight.nonzero().unbind(1)
        return Reduction.merge(
            anchor=in_medium(weight.argmax(dim=1).expand(frames, -1), tokens),
            slot=in_medium(slot.expand(frames, -1), len(weight)),
            member=in_medium(member.expand(frames, -1), tokens),
            weight=weight[slot, member].repeat(frames),
            num_inputs=frames * tokens,
        )

    def _line(self, side: int) -> Float[Tensor, "cells side"]:
        """What each place of a line weighs in each cell."""
        assert self.stride is not None
        stride, line = min(self.stride, side), torch.eye(side)
        if self.mode == "bilinear":
            return interpolate(line[None], -(-side // stride), mode="linear")[0].T
        return line[: side // stride * stride].unflatten(0, (-1, stride)).mean(dim=1)
