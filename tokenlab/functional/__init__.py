"""Pure tensor mathematics that methods share."""

from tokenlab.functional.frames import in_medium, mean_segments, neighbour_cosine, segment_starts
from tokenlab.functional.merging import blend, mean_runs, means, merge_into
from tokenlab.functional.selection import budget, cells, evenly_spaced, frame_budgets, max_min, top, top_per_frame

__all__ = [
    "blend",
    "budget",
    "cells",
    "evenly_spaced",
    "frame_budgets",
    "in_medium",
    "max_min",
    "mean_runs",
    "mean_segments",
    "means",
    "merge_into",
    "neighbour_cosine",
    "segment_starts",
    "top",
    "top_per_frame",
]
