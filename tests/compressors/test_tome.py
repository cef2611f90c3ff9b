"""ToMe's budgets."""

import pytest
import torch

from tests.golden import Case, cases
from tests.golden.adapters.tower import block_of
from tokenlab.compressors import REGISTRY
from tokenlab.compressors.stages import BlockView


@pytest.mark.parametrize("case", [case for case in cases("tome") if not case.values[0].params["class_token"]])
def test_a_retention_ratio_is_the_same_choice(case: Case):
    view = block_of(case)
    left = case.outputs["x_merged"].shape[1] / view.patches
    ours, _ = REGISTRY["tome"](retention_ratio=left).reduce_block(view, None)
    theirs, _ = REGISTRY["tome"](r=case.params["r"]).reduce_block(view, None)
    assert torch.equal(ours.anchor, theirs.anchor)
    assert torch.equal(ours.member, theirs.member)


@pytest.mark.parametrize("inflect", [-1.0, -0.5, 0.0, 0.7, 1.0])
@pytest.mark.parametrize(("ratio", "num_layers"), [(0.5, 24), (0.25, 3), (0.05, 6), (0.9, 12)])
def test_a_retention_ratio_is_met_in_a_straight_line(ratio, num_layers, inflect):
    method = REGISTRY["tome"](retention_ratio=ratio, inflect=inflect)
    left, gone = 1 + 100, []
    for layer in range(num_layers):
        noise = torch.randn(1, left, 2, 4, generator=torch.Generator().manual_seed(layer))
        places = torch.arange(-1, left - 1)[None]
        seen = (noise[:, :, 0], noise, noise, None, torch.ones(1, left), places)
        view = BlockView(layer, num_layers, *seen, grid=(10, 10), protected=1, generator=torch.Generator())
        reduction, _ = method.reduce_block(view, None)
        gone.append(left - reduction.num_outputs)
        left = reduction.num_outputs
    assert left - 1 == round(ratio * 100)
    if ratio >= 0.5:  # no block has to merge half of what it sees
        slopes = {round((b - a) / 100, 1) for a, b in zip(gone, gone[1:], strict=False)}
        assert slopes <= ({0.0} if num_layers == 24 or inflect == 0 else {0.0, round(inflect * 0.1, 1)})
        assert (gone[0] > gone[-1]) == (inflect < 0)


@pytest.mark.parametrize("arguments", [{}, {"r": 4, "retention_ratio": 0.5}, {"r": 4, "inflect": 2.0}])
def test_one_budget_is_asked_for(arguments):
    with pytest.raises(ValueError, match=r"give one of the two|inflect is 2.0"):
        REGISTRY["tome"](**arguments)
