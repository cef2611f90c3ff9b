"""Where each method must run, and which refusals are right: a refusal beyond those fails."""

import pytest

from tokenlab.compressors import REGISTRY
from tokenlab.models.families import FAMILIES
from tokenlab.models.families.support import why_unsupported

KINDS = ("llava", "llava_onevision", "qwen2_5_vl", "llava_next", "internvl")
"""A [CLS] tower, a SigLIP tower, a windowed tower and M-RoPE, mosaics, tiles."""

BEHIND = "what stands behind its vision tower counts the patches"
HEAD = "pooling head"

REFUSED = {
    "tome": dict.fromkeys(KINDS[1:], BEHIND),
    "fastervlm": dict.fromkeys(("llava_onevision", "qwen2_5_vl"), "CLS"),
    "scope": dict.fromkeys(("llava_onevision", "qwen2_5_vl"), "CLS"),
    "prumerge": dict.fromkeys(("llava_onevision", "qwen2_5_vl"), "CLS"),
    "hired": dict.fromkeys(("llava_onevision", "qwen2_5_vl"), "CLS"),
    "native": {"llava": "reads every picture at one size"},
    "fastvid": dict.fromkeys(("llava", "qwen2_5_vl", "llava_next", "internvl"), HEAD),
}
"""What may be refused, by method and kind, and a word of the reason; everything else runs everywhere."""


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_method_runs_wherever_it_must(name, family):
    reason = why_unsupported(FAMILIES[family], REGISTRY[name].example(0.5), ("clip", "siglip"))
    expected = REFUSED.get(name, {}).get(family)
    assert (reason is None) == (expected is None), reason
    assert expected is None or expected in reason


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_pixels_are_compared_where_it_is_known_which_a_token_shows(family):
    reason = why_unsupported(FAMILIES[family], REGISTRY["dtd"](by="pixels"))
    assert (reason is None) == FAMILIES[family].native_resolution
    assert reason is None or "does not say which pixels a token shows" in reason


@pytest.mark.parametrize("name", ["aks", "cdpruner", "trim"])
def test_without_its_encoder_a_method_is_refused_by_that_key(name):
    for family in KINDS:
        assert "add model.mllm.auxiliary: {clip: " in why_unsupported(FAMILIES[family], REGISTRY[name].example(0.5))
