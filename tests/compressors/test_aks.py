"""AKS restated with lists, where the authors' cases do not tell."""

import heapq
from statistics import fmean, pstdev

import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenlab.compressors import REGISTRY
from tokenlab.compressors.evidence import FrameScores
from tokenlab.compressors.stages import FrameView


def selected(method, scores: torch.Tensor) -> list[int]:
    seconds = torch.arange(scores.shape[0]).double()
    view = FrameView(scores.shape[0], seconds, "what ?", {FrameScores("clip"): scores}, torch.Generator())
    return method.select_frames(view).check().anchor.tolist()


def restated(scores: list[float], frames: list[int], method, count: int, depth: int = 0) -> list[int]:
    """The frames of a part, and of its halves where no frame stands out."""
    best = heapq.nlargest(count, (scores[frame] for frame in frames))
    spread = pstdev(scores[frame] for frame in frames)
    stands_out = fmean(best) - fmean(scores[frame] for frame in frames) > method.t1 and spread > method.t2
    if stands_out or depth == method.all_depth:
        return heapq.nlargest(int(count / 2**depth), frames, key=scores.__getitem__)
    half = len(frames) // 2
    return [
        frame for part in (frames[:half], frames[half:]) for frame in restated(scores, part, method, count, depth + 1)
    ]


@given(
    seed=st.integers(0, 1000),
    total=st.integers(33, 90),
    t1=st.sampled_from([0.1, 0.2, 0.3]),
    t2=st.sampled_from([-100.0, 0.3]),
    depth=st.integers(0, 4),
)
def test_halves_until_some_frames_stand_out(seed, total, t1, t2, depth):
    """Sixteen frames, so that every part of at most four halvings gives a whole number."""
    noise = torch.rand(total, generator=torch.Generator().manual_seed(seed)).double() ** 2
    method = REGISTRY["aks"](retention_ratio=16 / total, t1=t1, t2=t2, all_depth=depth)
    scores = ((noise - noise.min()) / (noise.max() - noise.min())).tolist()
    assert selected(method, noise) == sorted(restated(scores, list(range(total)), method, 16))


def test_fills_its_budget_where_halving_leaves_frames_over():
    """Ten frames of 40: eight parts give one each, and the best two of the rest come in."""
    scores = torch.rand(40, generator=torch.Generator().manual_seed(0)).double()
    method = REGISTRY["aks"](retention_ratio=0.25)
    parts = method.parts(scores, 10)
    assert [stop - start for _, start, stop in parts] == [5] * 8
    best = {start + int(scores[start:stop].argmax()) for _, start, stop in parts}
    rest = sorted(set(range(40)) - best, key=lambda frame: -scores[frame])
    assert selected(method, scores) == sorted(best | set(rest[:2]))


def test_frames_of_one_score_are_spread():
    method = REGISTRY["aks"](retention_ratio=0.25)
    assert selected(method, torch.full((16,), 0.3).double()) == [0, 4, 8, 12]
