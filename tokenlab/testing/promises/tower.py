"""What is promised before the tower, of frames and their pixels, and inside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st

from tokenlab.compressors.stages import FrameSelection, PixelReduction, TowerReduction
from tokenlab.functional import budget
from tokenlab.testing.promises.base import RATIOS, Build, expect, expect_count, on_drawn, promise
from tokenlab.testing.views import frame_view, pixel_view, through_tower


@promise(FrameSelection, drawn=True)
def selects_frames_in_time_order(build: Build) -> None:
    """As many as it says, and none merged."""

    @on_drawn(ratio=RATIOS, frames=st.integers(1, 40), native=st.booleans())
    def _(ratio: float, frames: int, native: bool) -> None:
        method: Any = build(ratio)
        if native and method.has_native_budget:
            method = replace(method, retention_ratio=None)
        reduction = method.select_frames(frame_view(method, frames)).settle(method.order)
        expect(not reduction.merges, "frames are selected, never merged")
        chosen = reduction.anchor.tolist()
        expect(chosen == sorted(set(chosen)), f"the chosen frames are not in time order: {chosen}")
        expect_count(method, 3 * len(chosen), [3] * frames)


@promise(PixelReduction, drawn=True)
def makes_pictures_smaller_and_no_larger_than_its_budget(build: Build) -> None:
    """The same each time, about as wide for their height; ones so thin that it cannot be done it refuses."""

    @on_drawn(ratio=RATIOS, rows=st.integers(1, 30), columns=st.integers(1, 30))
    def _(ratio: float, rows: int, columns: int) -> None:
        method: Any = build(ratio)
        view = pixel_view((8 * rows, 8 * columns))
        try:
            height, width = method.choose_size(view)
        except ValueError:
            most = budget(ratio, rows * columns)
            expect(min(rows, columns) < 5 or most < 5, f"it refuses {view.size} for {most} tokens")
            return
        expect((height, width) == method.choose_size(view), "it chooses otherwise the second time")
        expect(0 < height <= 8 * rows and 0 < width <= 8 * columns, f"{view.size} becomes {(height, width)}")
        expect(abs(height * columns - width * rows) <= rows + columns, f"{view.size} becomes {(height, width)}")
        expect_count(method, view.tokens((height, width)), [rows * columns])
        most = budget(ratio, rows * columns)
        expect(view.tokens((height, width)) <= most, f"more than {most} of {rows * columns} tokens are made")


@promise(TowerReduction, drawn=True)
def leaves_every_frame_its_budget_in_the_tower(build: Build) -> None:
    """Protected tokens lead every frame, untouched, and no patch is lost but to its own frame."""

    @on_drawn(ratio=RATIOS, patches=st.integers(1, 40), protected=st.integers(0, 3))
    def _(ratio: float, patches: int, protected: int) -> None:
        method: Any = build(ratio)
        tokens = protected + patches
        for view, reduction in through_tower(method, 3, (1, patches), protected):
            left, rest = divmod(reduction.num_outputs, 3)
            frame = torch.arange(3).repeat_interleave(left)
            own = rest == 0 and torch.equal(reduction.anchor // tokens, frame)
            expect(own, f"block {view.layer}: frames are left with different numbers of tokens, or change places")
            slots = torch.arange(reduction.num_outputs).repeat_interleave(reduction.lengths)
            inside = torch.equal(reduction.member // tokens, frame[slots])
            expect(inside, f"block {view.layer}: tokens of different frames merge")
            leading = torch.arange(3)[:, None] * left + torch.arange(protected)
            whole = torch.equal(reduction.anchor[leading] % tokens, torch.arange(protected).expand(3, -1))
            expect(whole and not reduction.lengths[leading].any(), f"block {view.layer}: protected tokens are touched")
            tokens = left
        most = budget(ratio, patches)
        expect(1 <= tokens - protected <= most, f"of {patches} patches {tokens - protected} are left, not 1 to {most}")
