"""DyCoke against the authors' code: what stays of the frames, and what a decode step sees."""

import math

import pytest
import torch

from tests.golden import Case, cases
from tokenlab.compressors import REGISTRY
from tokenlab.compressors.evidence import StepAttention
from tokenlab.compressors.stages import CacheView, GridView
from tokenlab.tokens import VisualTokens


@pytest.mark.parametrize("case", cases("dycoke_ttm"))
def test_keeps_what_the_authors_keep_in_their_order(case: Case):
    side = round(case.params["num_tokens_per_frame"] ** 0.5)
    values = case.inputs["x"].reshape(case.params["num_frames"], side, side, -1)
    view = GridView(VisualTokens.from_grid(values), "what ?", torch.Generator())
    method = REGISTRY["dycoke"](k=case.params["merging_ratio"], last_group="whole")
    ours = method.reduce_grid(view).check().anchor
    assert torch.equal(ours, case.outputs["kept_flat_index_in_output_order"])
    assert method.positions == "renumber"


@pytest.mark.parametrize("case", cases("dycoke_decode"))
def test_every_step_sees_what_it_sees_with_the_authors(case: Case):
    first, tokens = case.params["image_token_start_index"], case.params["image_token_length"]
    visual = torch.arange(first, first + tokens)
    method = REGISTRY["dycoke"](p=case.params["dycoke_radio"], similarity=case.params["sim_threshold"])
    (layer,) = method.cache_layers(28)
    assert layer == 3
    state, seen = None, []
    for step, length in enumerate(case.params["prompt_len_with_past"]):
        attention = case.inputs[f"attn_step{step}"].mean(dim=0)
        view = CacheView(layer, 28, step + 1, visual, {StepAttention(): attention}, torch.Generator())
        reduction, state = method.reduce_cache(view, state)
        kept = set(visual[reduction.check().anchor].tolist()) | set(range(length)) - set(visual.tolist())
        theirs = case.outputs[f"kv_index_step{step}"].tolist()
        assert sorted(kept) == (sorted(theirs) if theirs != [-1] else list(range(length)))
        seen.append(len(kept) == length)
    assert True in seen
    assert False in seen


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
def test_no_frame_is_lost(total):
    """The paper's groups of four, whatever the number of frames."""
    back = REGISTRY["dycoke"]().compared_with(total).tolist()
    assert back == [[0, 1, 2, 1][frame % 4] for frame in range(total)]
    released = REGISTRY["dycoke"](last_group="whole").compared_with(total).tolist()
    compared = {t + 2 for t in range(0, total - 4, 4)} | {t + 1 for t in range(0, total, 2) if t + 1 < total}
    assert {frame for frame in range(total) if released[frame]} == compared


def test_too_small_a_budget_is_refused():
    with pytest.raises(ValueError, match=r"retention_ratio is 0\.2, but must be at least 0\.25"):
        REGISTRY["dycoke"](retention_ratio=0.2)
