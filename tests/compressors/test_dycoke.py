"""DyCoke's groups of frames, and what a decode step is compared with."""

import math

import pytest
import torch

from tokenlab.compressors import REGISTRY
from tokenlab.compressors.evidence import StepAttention
from tokenlab.compressors.stages import CacheView


def test_a_step_is_compared_with_the_one_before_it():
    """Attention that drifts slowly never asks for a choice, however far it gets from where it was last made."""
    method, state, seen = REGISTRY["dycoke"](), None, []
    for angle in (0.0, 0.4, 0.8, 1.2):
        attention = torch.zeros(20)
        attention[3], attention[7] = math.cos(angle), math.sin(angle)
        view = CacheView(3, 28, 1, torch.arange(2, 12), {StepAttention(): attention}, torch.Generator())
        reduction, state = method.reduce_cache(view, state)
        seen.append(reduction.num_outputs)
    assert seen == [3, 10, 10, 10]


@pytest.mark.parametrize("total", range(1, 18))
def test_frames_are_compared_in_groups_of_four(total):
    """By the paper all are; released code, written out, misses one, and from five frames on may lose the last."""
    paper, released = REGISTRY["dycoke"](ends="paper"), REGISTRY["dycoke"]()
    assert paper.compared_with(total).tolist() == [[0, 1, 2, 1][frame % 4] for frame in range(total)]
    compared = {t + 2 for t in range(0, total - 4, 4)} | {t + 1 for t in range(0, total, 2) if t + 1 < total}
    assert {frame for frame, back in enumerate(released.compared_with(total).tolist()) if back} == compared
    assert [paper.lost(total), released.lost(total)] == [0, int(total > 4 and total % 2 == 1)]


def test_too_small_a_budget_is_refused():
    with pytest.raises(ValueError, match=r"retention_ratio is 0\.2, but must be at least 0\.25"):
        REGISTRY["dycoke"](retention_ratio=0.2)
