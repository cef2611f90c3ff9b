"""Pure tensor mathematics that methods share."""

from tokenlab.functional.clusters import cluster, components, density_peaks
from tokenlab.functional.frames import (
    averaged,
    in_medium,
    mean_segments,
    neighbour_cosine,
    segment_starts,
    segments_between,
    spans,
)
from tokenlab.functional.merging import blend, frame_by_frame, mean_runs, means, merge_into, sums, with_mean_of_rest
from tokenlab.functional.schemes import Observed, fitted_scheme
from tokenlab.functional.selection import (
    budget,
    cells,
    evenly_spaced,
    farthest_first,
    frame_budgets,
    greedy_dpp,
    max_min,
    outliers,
    rank_within,
    rest_of,
    share_to_go,
    top,
    top_per_frame,
)

__all__ = [
    "Observed",
    "averaged",
    "blend",
    "budget",
    "cells",
    "cluster",
    "components",
    "density_peaks",
    "evenly_spaced",
    "farthest_first",
    "fitted_scheme",
    "frame_budgets",
    "frame_by_frame",
    "greedy_dpp",
    "in_medium",
    "max_min",
    "mean_runs",
    "mean_segments",
    "means",
    "merge_into",
    "neighbour_cosine",
    "outliers",
    "rank_within",
    "rest_of",
    "segment_starts",
    "segments_between",
    "share_to_go",
    "spans",
    "sums",
    "top",
    "top_per_frame",
    "with_mean_of_rest",
]
