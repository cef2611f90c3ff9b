"""AKS against the authors' code."""

import pytest
import torch

from tests.golden import Case, cases
from tokenlab.compressors import REGISTRY
from tokenlab.compressors.base import FrameView
from tokenlab.compressors.evidence import FrameScores


def selected(method, scores: torch.Tensor) -> list[int]:
    seconds = torch.arange(scores.shape[0]).double()
    view = FrameView(scores.shape[0], seconds, "what ?", {FrameScores("clip"): scores}, torch.Generator())
    return method.select_frames(view).check().anchor.tolist()


@pytest.mark.parametrize("case", cases("aks"))
def test_selects_the_frames_of_the_authors(case: Case):
    scores, params = case.inputs["scores"], case.params
    count, step = params["max_num_frames"], params["frame_step"]
    method = REGISTRY["aks"](
        retention_ratio=count / scores.shape[0],
        t1=params["t1"],
        t2=float(params["t2"]),
        all_depth=params["all_depth"],
    )
    assert [frame * step for frame in selected(method, scores)] == case.outputs["selected_frames"].tolist()
    parts = [[depth, start * step, (stop - 1) * step] for depth, start, stop in method.parts(scores, count)]
    assert parts == sorted(case.outputs["segments"].tolist(), key=lambda part: part[1])


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
