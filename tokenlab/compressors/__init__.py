"""Learning-free token reduction methods; a method's file needs one import line, from here.

Every module of `methods/` is imported at the end, and then whatever other packages offer under the entry point group
`tokenlab.compressors`: defining a method registers it.
"""

from importlib import import_module
from pkgutil import iter_modules

from tokenlab.compressors import methods
from tokenlab.compressors.base import (
    REGISTRY,
    BudgetUnit,
    Kind,
    SampleNoise,
    State,
    TokenCompressor,
    list_compressors,
    scaled_layer,
)
from tokenlab.compressors.evidence import (
    FrameFeatures,
    FrameScores,
    LayerAttention,
    NormedHidden,
    PoolingAttention,
    ProjectorInput,
    QuestionEmbeddings,
    Space,
    StepAttention,
    TokenEmbeddings,
    TowerAttention,
    TowerFeatures,
    TowerKeys,
)
from tokenlab.compressors.kinds import CountedFrames, CountedTokens, FramesView, FrameWise, TwoStage
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import (
    STAGES,
    BlockView,
    CacheReduction,
    CacheView,
    FrameSelection,
    FrameView,
    GridReduction,
    GridView,
    LayerReduction,
    LayerView,
    Moment,
    TowerReduction,
)
from tokenlab.functional import (
    averaged,
    blend,
    budget,
    cells,
    cluster,
    components,
    density_peaks,
    evenly_spaced,
    farthest_first,
    greedy_dpp,
    in_medium,
    max_min,
    mean_runs,
    mean_segments,
    means,
    merge_into,
    neighbour_cosine,
    outliers,
    segment_starts,
    segments_between,
    share_to_go,
    sums,
    top,
    top_per_frame,
    with_mean_of_rest,
)
from tokenlab.reduction import Reduction
from tokenlab.schema.plugins import load_plugins
from tokenlab.tokens import Evidence, VisualTokens
from tokenlab.tokens.sequence import Separators

__all__ = [
    "REGISTRY",
    "STAGES",
    "BlockView",
    "BudgetUnit",
    "CacheReduction",
    "CacheView",
    "CountedFrames",
    "CountedTokens",
    "Evidence",
    "FrameFeatures",
    "FrameScores",
    "FrameSelection",
    "FrameView",
    "FrameWise",
    "FramesView",
    "GridReduction",
    "GridView",
    "Kind",
    "LayerAttention",
    "LayerReduction",
    "LayerView",
    "Moment",
    "NormedHidden",
    "Pipeline",
    "PoolingAttention",
    "ProjectorInput",
    "QuestionEmbeddings",
    "Reduction",
    "SampleNoise",
    "Separators",
    "Space",
    "State",
    "StepAttention",
    "TokenCompressor",
    "TokenEmbeddings",
    "TowerAttention",
    "TowerFeatures",
    "TowerKeys",
    "TowerReduction",
    "TwoStage",
    "VisualTokens",
    "averaged",
    "blend",
    "budget",
    "cells",
    "cluster",
    "components",
    "density_peaks",
    "evenly_spaced",
    "farthest_first",
    "greedy_dpp",
    "in_medium",
    "list_compressors",
    "max_min",
    "mean_runs",
    "mean_segments",
    "means",
    "merge_into",
    "neighbour_cosine",
    "outliers",
    "scaled_layer",
    "segment_starts",
    "segments_between",
    "share_to_go",
    "sums",
    "top",
    "top_per_frame",
    "with_mean_of_rest",
]

for _module in iter_modules(methods.__path__):
    import_module(f"{methods.__name__}.{_module.name}")
load_plugins("tokenlab.compressors", REGISTRY)
