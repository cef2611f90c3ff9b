"""FrameFusion against the authors' code, call by call."""

import pytest
import torch

from tests.golden import Case, assert_features, cases
from tests.golden.views import GivenRows, in_llm
from tokenlab.compressors import REGISTRY
from tokenlab.compressors.evidence import LayerAttention

FLAGS = {"merge": [0, 0], "prune": [1, 0], "done": [1, 1]}  # the authors' finish_merging, finish_pruning


@pytest.mark.parametrize("case", cases("framefusion"))
def test_every_call_is_the_authors(case: Case):
    params, patch = case.params, case.inputs["patch_type"][0]
    method = REGISTRY["framefusion"](
        cost=params["cost"],
        similarity_lower_bound=params["similarity_lower_bound"],
        ratio_lower_bound=params["ratio_lower_bound"],
    )
    assert method.retention_ratio is None
    num_layers = params["num_layers_constant"]
    initial = int((patch >= 0).sum())
    position = torch.arange(patch.shape[0])
    frame = (position - params["prefix"]).div(params["patch_num"], rounding_mode="floor")
    state = None
    calls = sum(name.startswith("hidden_in_") for name in case.inputs)
    assert calls > 3
    for call, (layer, moment) in enumerate(method.points(num_layers)[:calls]):
        visual = (patch[position] >= 0).nonzero().flatten()
        at = position[visual]
        hidden = case.inputs[f"hidden_in_{call}"]
        row = case.inputs[f"attn_{call}_mean_over_heads_and_queries"]
        evidence = {LayerAttention(): GivenRows(row[None, None], [len(hidden) - 1])}
        view = in_llm(
            method,
            hidden,
            visual,
            (layer, moment),
            evidence if call else {},  # before the first layer there is none
            num_layers,
            places=torch.stack([frame[at], patch[at] // 6, patch[at] % 6], dim=1),
            initial=initial,
        )
        reduction, state = method.reduce_layer(view, state)
        kept = visual[reduction.check().anchor]
        before, after = torch.arange(params["prefix"]), torch.arange(int(visual[-1]) + 1, hidden.shape[0])
        position = position[torch.cat([before, kept, after])]
        assert torch.equal(position, case.outputs[f"position_{call}"])
        ours = torch.cat([hidden[before], reduction.apply(hidden[visual]), hidden[after]])
        assert_features(ours, case.outputs[f"hidden_out_{call}"])
        assert FLAGS[state.phase] == case.outputs[f"flags_{call}"].tolist()
    assert state.phase == "done"
    assert method.positions == "keep"
