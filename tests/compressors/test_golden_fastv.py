"""FastV against the authors' code."""

import pytest
import torch

from tests.golden import Case, cases
from tests.golden.views import GivenRows, in_llm
from tokenlab.compressors import REGISTRY
from tokenlab.compressors.evidence import LayerAttention


@pytest.mark.parametrize("case", cases("fastv"))
def test_keeps_what_the_authors_keep(case: Case):
    first, tokens, length = (case.params[name] for name in ("sys_length", "image_token_length", "seq_len"))
    visual = torch.arange(first, first + tokens)
    method = REGISTRY["fastv"](retention_ratio=case.params["attention_rank"] / tokens)
    ((layer, moment),) = method.points(32)
    assert (layer, moment) == (2, "before_attention")
    attention = GivenRows(case.inputs["attn_last_query_heads"][:, None], [length - 1])
    view = in_llm(method, torch.zeros(length, 1), visual, (layer, moment), {LayerAttention(): attention})
    reduction, _ = method.reduce_layer(view, None)
    kept = set(visual[reduction.check().anchor].tolist()) | set(range(length)) - set(visual.tolist())
    assert sorted(kept) == case.outputs["keep_indices"].tolist()
    assert method.positions == "keep"


@pytest.mark.parametrize(("num_layers", "layer"), [(32, 2), (80, 5), (4, 1), (2, 1)])
def test_its_layer_scales_with_depth(num_layers, layer):
    assert REGISTRY["fastv"](retention_ratio=0.5).points(num_layers) == [(layer, "before_attention")]
