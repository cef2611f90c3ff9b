"""Log-likelihoods of options: one prefill, and the numbers of a forward for each option by hand."""

import pytest
import torch

from tests.models.test_costs import thinning
from tests.models.test_exactness import KEEPING, PIPELINES, Bench, bench, build, possible  # noqa: F401
from tokenlab.compressors import Pipeline
from tokenlab.errors import SampleError
from tokenlab.evaluation import flops
from tokenlab.models.costs import ModelCosts, counter
from tokenlab.models.frozen import Encodings
from tokenlab.models.scoring import score

OPTIONS = ("red circle", "blue", "green square moves left", "red")
SCORED = {
    "full": Pipeline(),
    **{name: build(PIPELINES[name]) for name in ("random", "text", "similarity other positions", "fastv", "tome")},
    "framefusion": build(PIPELINES["framefusion"]),
    "grid, layers, cache": build(PIPELINES["grid, layers, cache"]),
}


@pytest.mark.parametrize("name", SCORED)
def test_scores_are_those_of_whole_forwards(bench: Bench, name):  # noqa: F811
    if name not in possible(bench, SCORED):
        pytest.skip("this family cannot have it")
    pipeline, mllm = SCORED[name], bench.mllm
    encodings = Encodings(mllm, pipeline.needs())
    calls = []
    handle = mllm.model.model.get_decoder().register_forward_pre_hook(
        lambda _, __, kwargs: calls.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    for clip in (bench.clips[0], bench.clips[2]):
        sample = clip.samples[0]
        calls.clear()
        ours = score(mllm, mllm.reduce(clip, sample, pipeline, encodings), OPTIONS)
        assert calls[1:] == [1] * (sum(ours.lengths) - len(OPTIONS)), "one prefill, and a step for every token read"
        tokens = [mllm.writer.processor.tokenizer(o, add_special_tokens=False)["input_ids"] for o in OPTIONS]
        theirs = [bench.reference.log_likelihood([*clip.media, sample.question], sample, pipeline, t) for t in tokens]
        assert ours.lengths == tuple(map(len, tokens))
        assert torch.allclose(torch.tensor(ours.log_likelihoods), torch.tensor(theirs), rtol=1e-4, atol=1e-4)
    handle.remove()


def test_order_and_company_change_nothing(bench: Bench):  # noqa: F811
    """To the bit: going back leaves no trace of the options before."""
    mllm, clip, pipeline = bench.mllm, bench.clips[0], SCORED["grid, layers, cache"]
    request = mllm.reduce(clip, clip.samples[0], pipeline, Encodings(mllm, pipeline.needs()))
    together = score(mllm, request, OPTIONS).log_likelihoods
    assert score(mllm, request, OPTIONS[::-1]).log_likelihoods == together[::-1]
    assert tuple(score(mllm, request, [option]).log_likelihoods[0] for option in OPTIONS) == together


def test_keeping_all_scores_like_the_untouched_model(bench: Bench):  # noqa: F811
    mllm, clip = bench.mllm, bench.clips[0]
    plain = None
    for pipeline in (Pipeline(), *possible(bench, KEEPING).values()):
        request = mllm.reduce(clip, clip.samples[0], pipeline, Encodings(mllm, pipeline.needs()))
        found = score(mllm, request, OPTIONS).log_likelihoods
        plain = plain or found
        assert found == plain


@pytest.mark.parametrize(
    "pipeline",
    [Pipeline(), SCORED["random"], Pipeline((thinning((1, "after_attention"), positions="renumber"),))],
    ids=["full", "random", "thinning"],
)
def test_flops_equal_the_counter(bench: Bench, pipeline):  # noqa: F811
    mllm, clip = bench.mllm, bench.clips[0]
    costs = ModelCosts(mllm.config, mllm.family)
    request = mllm.reduce(clip, clip.samples[0], pipeline, Encodings(mllm, frozenset()))
    with counter() as counted:
        scores = score(mllm, request, OPTIONS)
    priced = flops(scores.trace, costs)
    assert priced.prefill + priced.decode == counted.get_total_flops()


def test_empty_options_are_refused(bench: Bench):  # noqa: F811
    mllm, clip = bench.mllm, bench.clips[0]
    request = mllm.reduce(clip, clip.samples[0], Pipeline(), Encodings(mllm, frozenset()))
    for options in ([], ["red", ""]):
        with pytest.raises(SampleError, match="cannot be scored"):
            score(mllm, request, options)
