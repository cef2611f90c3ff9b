"""The four compressors of arXiv 2501.17391, restated with loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenlab.compressors import REGISTRY
from tokenlab.compressors.evidence import QuestionEmbeddings, TokenEmbeddings
from tokenlab.testing.views import grid_view, through_layers


def merged_frames(frames: np.ndarray, score: list[float], ratio: float) -> np.ndarray:
    """K segments, cut before the K-1 highest steps, averaged position by position."""
    total = len(frames)
    segments = max(1, round(ratio * total))
    cuts = sorted(sorted(range(len(score)), key=lambda i: (-score[i], i))[: segments - 1])
    bounds = [0, *(cut + 1 for cut in cuts), total]
    return np.stack([frames[a:b].mean(0) for a, b in zip(bounds, bounds[1:], strict=False)])


def differences(frames: np.ndarray) -> list[float]:
    norm = np.mean([np.linalg.norm(token) for frame in frames for token in frame])
    return [
        float(np.mean([np.linalg.norm(b - a) for a, b in zip(before, after, strict=True)]) / norm)
        for before, after in zip(frames, frames[1:], strict=False)
    ]


def dissimilarities(frames: np.ndarray) -> list[float]:
    def cosine(a, b):
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    return [
        1 - float(np.mean([cosine(a, b) for a, b in zip(before, after, strict=True)]))
        for before, after in zip(frames, frames[1:], strict=False)
    ]


@pytest.mark.parametrize(("name", "score"), [("differential", differences), ("similarity", dissimilarities)])
@given(ratio=st.floats(0.05, 0.95), frames=st.integers(1, 9), seed=st.integers(0, 1000))
def test_temporal_merging(name, score, ratio, frames, seed):
    method = REGISTRY[name](retention_ratio=ratio)
    view = grid_view(method, grid=(frames, 2, 3), seed=seed)
    ours = view.tokens.reduce(method.reduce_grid(view)).as_frames().numpy()
    values = view.tokens.as_frames().double().numpy()
    assert np.allclose(ours, merged_frames(values, score(values), ratio), atol=1e-5)
    assert method.positions == "renumber"


def top_of_each_frame(scores: np.ndarray, ratio: float) -> list[int]:
    frames, tokens = scores.shape
    keep = max(1, round(ratio * tokens))
    chosen = []
    for t in range(frames):
        best = sorted(range(tokens), key=lambda n: (-scores[t, n], n))[:keep]
        chosen += [t * tokens + n for n in sorted(best)]
    return chosen


@given(ratio=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_topic_keeps_what_cls_attends_to(ratio, seed):
    method = REGISTRY["topic"](retention_ratio=ratio)
    view = grid_view(method, seed=seed)
    scores = view.evidence[method.attention].reshape(6, 20).numpy()
    assert method.reduce_grid(view).anchor.tolist() == top_of_each_frame(scores, ratio)
    assert method.attention.layer == -2
    assert method.positions == "keep"


@pytest.mark.parametrize("space", ["llm", "clip"])
@given(ratio=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_text_keeps_what_some_word_resembles(space, ratio, seed):
    method = REGISTRY["text"](retention_ratio=ratio, space=space)
    view = grid_view(method, seed=seed)
    tokens = view.evidence[TokenEmbeddings(space)].double().numpy()
    words = view.evidence[QuestionEmbeddings(space)].double().numpy()
    scores = np.array([max(x @ w / (np.linalg.norm(x) * np.linalg.norm(w)) for w in words) for x in tokens]).reshape(
        6, 20
    )
    assert method.reduce_grid(view).anchor.tolist() == top_of_each_frame(scores, ratio)
    assert method.positions == "keep"


def test_joint_keeps_a_sixteenth():
    temporal, spatial = REGISTRY["similarity"](retention_ratio=0.25), REGISTRY["text"](retention_ratio=0.25)
    view = grid_view(spatial, grid=(16, 8, 8))
    tokens = view.tokens.reduce(temporal.reduce_grid(view))
    view = type(view)(tokens, view.question, view.generator)
    assert tokens.reduce(spatial.reduce_grid(view)).num_tokens == 16 * 64 / 16


def test_one_frame_is_left_alone():
    for name in ("differential", "similarity"):
        method = REGISTRY[name](retention_ratio=0.25)
        view = grid_view(method, grid=(1, 2, 2))
        reduction = method.reduce_grid(view)
        assert (reduction.anchor.tolist(), reduction.merges) == ([0, 1, 2, 3], False)


def test_random_budgets_are_nested():
    views = [grid_view(REGISTRY["random"](retention_ratio=r)) for r in (0.2, 0.5)]
    small, large = (
        set(REGISTRY["random"](retention_ratio=r).reduce_grid(view).anchor.tolist())
        for r, view in zip((0.2, 0.5), views, strict=True)
    )
    assert small < large


def test_pool_averages_every_token_once():
    method = REGISTRY["pool"](retention_ratio=0.25)
    view = grid_view(method, grid=(2, 4, 4))
    ours = view.tokens.reduce(method.reduce_grid(view)).values.reshape(2, 2, 2, 8)
    images = view.tokens.values.reshape(2, 4, 4, 8).permute(0, 3, 1, 2)
    assert torch.allclose(ours, torch.nn.functional.avg_pool2d(images, 2).permute(0, 2, 3, 1), atol=1e-6)


def test_vtw_withdraws_all_visual_tokens_at_the_middle_layer():
    """At layer 15 of 32, newlines and markers with them."""
    method = REGISTRY["vtw"]()
    assert method.points(32) == [(15, "before_attention")]
    for view, reduction in through_layers(method, num_layers=32):
        assert [token for token in range(len(view.visual)) if token in reduction.anchor] == []
    assert method.separators == "drop"
