"""The minute's check that `tokenlab doctor` runs: right models pass, and a broken one is noticed."""

import pytest
import torch

from tokenlab.models.mllm import LoadedModel
from tokenlab.models.settings import MLLM
from tokenlab.testing import ANSWER_TOKENS
from tokenlab.testing.exactness import check_exactness, check_families


@pytest.mark.slow
def test_right_models_pass(tmp_path):
    checks = list(check_families(["llava", "llava_next", "qwen3_vl"], tmp_path))
    assert [check for check in checks if check.failure] == []
    assert {check.name for check in checks} >= {"contract with transformers", "full", "keep all: layers and cache"}


@pytest.mark.parametrize("name", ["llava"])
def test_a_broken_road_is_noticed(checkpoints, name, monkeypatch):
    """A rotary embedding that forgets columns, as a silent change in transformers might make it do."""
    loaded = LoadedModel.load(MLLM(checkpoint=str(checkpoints[name]), max_new_tokens=ANSWER_TOKENS))
    monkeypatch.setattr("tokenlab.models.llm.layer_hooks.SEQUENCE_AXIS", {})
    monkeypatch.setattr("tokenlab.models.llm.layer_hooks.reduced_mask", lambda mask, *_: torch.zeros(1, 1, 1, 1))
    failures = [check.name for check in check_exactness(name, loaded) if check.failure]
    assert "keep all: layers and cache" in failures
    assert "full" not in failures
