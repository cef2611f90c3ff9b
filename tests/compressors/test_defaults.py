"""Defaults of papers and released code, and what they look at, against the fields and evidence of our classes.

Golden vectors bring their own parameters: a default that slipped, or attention of another layer, would pass them.
"""

from dataclasses import fields

import pytest

from tokenlab.compressors import REGISTRY
from tokenlab.compressors.evidence import (
    FrameFeatures,
    FrameScores,
    LayerAttention,
    NormedHidden,
    PoolingAttention,
    QuestionEmbeddings,
    StepAttention,
    TokenEmbeddings,
    TowerAttention,
    TowerFeatures,
    TowerKeys,
)

CLIP = {TokenEmbeddings("clip", layer=-2), QuestionEmbeddings("clip")}
KEPT, RENUMBERED = {"positions": "keep"}, {"positions": "renumber"}

PUBLISHED = {
    # before the tower, and inside it
    "aks": ({"frames": 64, "t1": 0.8, "t2": -100.0, "all_depth": 5}, {FrameScores("clip")}),
    "tome": ({"inflect": 0.0}, set()),
    # on the grid
    "differential": (RENUMBERED, set()),
    "similarity": (RENUMBERED, set()),
    "topic": ({}, {TowerAttention(-2, "cls_or_mean")}),
    "text": ({"space": "llm"}, {TokenEmbeddings("llm"), QuestionEmbeddings("llm")}),
    "visionzip": (
        {"dominant": 54, "contextual": 10, **RENUMBERED},
        {TowerAttention(-2, "cls_or_mean"), TowerKeys(-2)},
    ),
    "prumerge": (
        {"neighbours": 32, "plus": False, "share": None, **RENUMBERED},
        {TowerAttention(-1, "cls", heads="one"), TowerKeys(-1, heads="all")},
    ),
    "fastervlm": ({"tokens": 144, **RENUMBERED}, {TowerAttention(-2, "cls")}),
    "vispruner": (RENUMBERED, {TowerAttention(-2, "cls_or_mean"), TowerFeatures(-2)}),
    "divprune": ({"retention_ratio": 0.098, **RENUMBERED}, set()),
    "cdpruner": (RENUMBERED, CLIP),
    "hired": (
        {"retention_ratio": 0.2, "alpha": 0.5, **RENUMBERED},
        {TowerAttention(0, "cls"), TowerAttention(-2, "cls")},
    ),
    "trim": ({"retention_ratio": None, **RENUMBERED}, CLIP),
    "scope": ({"alpha": 1.0, **RENUMBERED}, {TowerAttention(-2, "cls"), TowerFeatures(-2)}),
    "dtd": ({"threshold": 0.5, "mode": "absolute", "by": "features", **KEPT}, set()),
    "evs": (KEPT, set()),
    "vidcom2": ({"retention_ratio": 0.25, "channels": 0.5, "count": "released", **KEPT}, set()),
    "fastvid": (
        {"retention_ratio": 0.1, "segments": 8, "tau": 0.9, "merged": 0.4, "stride": 4, "beta": 0.6, **KEPT},
        {PoolingAttention(), FrameFeatures()},
    ),
    "llava_scissor": ({"tau": 0.9, "epsilon": 0.05, **RENUMBERED}, set()),
    # on the grid and in the LLM
    "dycoke": (
        {"k": 0.7, "p": 0.7, "layer": 3, "similarity": 0.9, "ends": "released", **RENUMBERED},
        {StepAttention()},
    ),
    "prunevid": (
        {"tau": 0.8, "segments": 0.25, "clusters": 0.5, "alpha": 0.4, "layer": 10, "neighbours": 7, **RENUMBERED},
        {LayerAttention()},
    ),
    "holitom": (
        {"tau": 0.8, "beta": 0.6, "neighbours": 7, "max_window": 1024, "layer": 18, "inner": 0.5, **RENUMBERED},
        {TowerAttention(-1, "mean"), LayerAttention()},
    ),
    "flashvid": (
        {
            "outer": 0.25,
            "alpha": 0.7,
            "link": 0.8,
            "tau": 0.9,
            "expansion": 1.25,
            "layer": 20,
            "inner": 0.3,
            "segments": 8,
        }
        | RENUMBERED,
        {TowerAttention(-1, "mean"), LayerAttention()},
    ),
    # in the LLM
    "fastv": ({"layer": 2, **KEPT}, {LayerAttention()}),
    "framefusion": (
        {"cost": 0.3, "similarity_lower_bound": 0.6, "ratio_lower_bound": 0.1, **KEPT},
        {LayerAttention()},
    ),
    "pyramiddrop": (
        {"layers": (8, 16, 24), "ratios": (0.5, 0.25, 0.125), **RENUMBERED},
        {LayerAttention(layer="next")},
    ),
    "sparsevlm": ({"layers": (2, 6, 15), "recycled": 0.3, "tokens": 192, **RENUMBERED}, {LayerAttention()}),
    "dart": (
        {"layer": 2, "visual_pivots": 4, "text_pivots": 4, "tokens": 128, **KEPT},
        {LayerAttention(), NormedHidden()},
    ),
    "feather": ({"layers": (8, 16), "share": 0.3, "stride": 3, **KEPT}, {LayerAttention(rotary=False)}),
    "fitprune": (KEPT, {LayerAttention()}),
    "vtw": ({"layer": 15, "separators": "drop", **KEPT}, set()),
    "sttm": ({"layer": 2, "root_level": 1, "head_dim": None, **RENUMBERED}, set()),
    "st_simdiff": ({"cost": 0.3, "similarity": 0.8, "event": 0.2, **KEPT}, {LayerAttention()}),
}
"""By method: defaults of its own, and what it looks at."""


def test_every_published_method_has_its_line():
    assert set(PUBLISHED) == {name for name, method in REGISTRY.items() if method.paper}


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_and_evidence_are_the_authors(name):
    defaults, needs = PUBLISHED[name]
    ours = {each.name: each.default for each in fields(REGISTRY[name])}
    assert {key: ours[key] for key in defaults} == defaults
    assert REGISTRY[name].example(0.5).needs() == needs
