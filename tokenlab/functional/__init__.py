"""Pure tensor mathematics that methods share."""

from tokenlab.functional.frames import in_medium, mean_segments, segment_starts
from tokenlab.functional.merging import blend, mean_runs, means, merge_into
from tokenlab.functional.selection import budget, coarse_grid, evenly_spaced, top, top_per_frame

__all__ = [
    "blend",
    "budget",
    "coarse_grid",
    "evenly_spaced",
    "in_medium",
    "mean_runs",
    "mean_segments",
    "means",
    "merge_into",
    "segment_starts",
    "top",
    "top_per_frame",
]
