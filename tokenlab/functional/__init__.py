"""Pure tensor mathematics that methods share."""

from tokenlab.functional.clusters import cluster, components, density_peaks
from tokenlab.functional.frames import (
    averaged,
    in_medium,
    mean_segments,
    neighbour_cosine,
    segment_starts,
    segments_between,
)
from tokenlab.functional.merging import blend, mean_runs, means, merge_into, sums, with_mean_of_rest
from tokenlab.functional.selection import (
    budget,
    cells,
    evenly_spaced,
    farthest_first,
    frame_budgets,
    greedy_dpp,
    max_min,
    outliers,
    share_to_go,
    top,
    top_per_frame,
)

__all__ = [
    "averaged",
    "blend",
    "budget",
    "cells",
    "cluster",
    "components",
    "density_peaks",
    "evenly_spaced",
    "farthest_first",
    "frame_budgets",
    "greedy_dpp",
    "in_medium",
    "max_min",
    "mean_runs",
    "mean_segments",
    "means",
    "merge_into",
    "neighbour_cosine",
    "outliers",
    "segment_starts",
    "segments_between",
    "share_to_go",
    "sums",
    "top",
    "top_per_frame",
    "with_mean_of_rest",
]
