"""FLOPs of a record equal torch's own counter, to the FLOP."""

import pytest

from tests.models.test_exactness import FAMILIES, PIPELINES, Bench, bench, build, make_clips  # noqa: F401
from tokenlab.compressors import Pipeline
from tokenlab.evaluation import flops
from tokenlab.models.costs import ModelCosts, counter
from tokenlab.models.frozen import Encodings

MEASURED = {
    "full": Pipeline(),
    **{name: build(PIPELINES[name]) for name in ("random", "frame_stride", "similarity", "pool", "merge, pool, prune")},
}


@pytest.mark.parametrize("name", MEASURED)
def test_flops_equal_the_counter(bench: Bench, name: str):  # noqa: F811
    """Tower and projector while encoding, prefill and decode while generating, at batch 1."""
    mllm, pipeline = bench.mllm, MEASURED[name]
    costs = ModelCosts(mllm.config, mllm.family)
    object.__setattr__(mllm.settings, "batch_size", 1)
    for clip in bench.clips:
        for sample in clip.samples[:2]:
            with counter() as encoding:
                request = mllm.reduce(clip, sample, pipeline, Encodings(mllm, frozenset()))
            with counter() as generating:
                (answer,) = mllm.generate([request])
            priced = flops(answer.trace, costs)
            # a method's own matrix products are timed, not counted: none of the measured ones has any
            assert priced.tower + priced.projector == encoding.get_total_flops()
            assert priced.prefill + priced.decode == generating.get_total_flops()


def test_fewer_tokens_cost_less(bench: Bench):  # noqa: F811
    """Drop the reductions from the trace and the FLOPs are those of the untouched model."""
    from dataclasses import replace

    mllm, clip = bench.mllm, bench.clips[0]
    costs = ModelCosts(mllm.config, mllm.family)
    encodings = Encodings(mllm, frozenset())
    full = mllm.reduce(clip, clip.samples[0], Pipeline(), encodings).trace
    pruned = mllm.reduce(clip, clip.samples[0], MEASURED["random"], encodings).trace
    assert costs.prefill(pruned.prefill_tokens) < costs.prefill(full.prefill_tokens)
    assert pruned.visual_tokens_out < full.visual_tokens_out
    assert replace(pruned, steps=()).visual_tokens_out == full.visual_tokens_out


def test_attention_is_counted_on_the_cpu():
    """Torch versions up to 2.13 leave it out there unless told otherwise."""
    import torch

    query = torch.randn(1, 2, 5, 8)
    with counter() as count, torch.inference_mode():
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert count.get_total_flops() == 2 * 2 * 2 * 5 * 5 * 8
