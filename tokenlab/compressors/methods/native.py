"""Smaller pictures, the control that asks of every method whether it beats the model's own way to fewer tokens.

Processors of models that read pictures at their own size have a limit on pixels, and those that cut pictures into tiles
cut smaller ones into fewer: both are what practitioners turn first.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import ClassVar

from tokenlab.compressors import PixelReduction, PixelView, Size, budget

STEPS = 64
SMALLEST = 4
"""Pixels of a side; processors could take three for colours."""


@dataclass(frozen=True, kw_only=True)
class Native(PixelReduction, name="native"):
    """Shows the model smaller pictures, of which it makes fewer tokens by itself.

    Args:
        retention_ratio: Of the tokens at the pictures' own size, the most that are made.
    """

    data_decides: ClassVar[bool] = True

    def choose_size(self, view: PixelView) -> Size:
        """Takes the largest of 64 sizes, of equal shape, of which not too many tokens are made."""
        total = view.tokens(view.size)
        most = budget(self.retention_ratio, total)
        sizes = [(view.size[0] * k // STEPS, view.size[1] * k // STEPS) for k in range(1, STEPS + 1)]
        sizes = [size for size in sizes if min(size) >= SMALLEST]
        fitting = bisect_right(sizes, most, key=view.tokens)
        if not fitting:
            raise ValueError(f"no smaller picture brings its {total} visual tokens down to {most}")
        return sizes[fitting - 1]
