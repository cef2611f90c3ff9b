"""Log-likelihoods of options: one prefill, and the numbers of a forward for each option by hand."""

from dataclasses import replace

import pytest
import torch

from tests.models.harness import Harness
from tests.models.pipelines import PIPELINES, build, possible, thinning
from tokenlab.compressors import Pipeline
from tokenlab.errors import SampleError
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.costs.price import price
from tokenlab.models.counter import flop_counter
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.scoring import ScoredQuestion, divergence, own_answer, score
from tokenlab.testing.stubs import KEEPING

OPTIONS = ("red circle", "blue", "green square moves left", "red")
SCORED = {
    "full": Pipeline(),
    **{name: build(PIPELINES[name]) for name in ("random", "text", "similarity other positions", "fastv", "tome")},
    "framefusion": build(PIPELINES["framefusion"]),
    "grid, layers, cache": build(PIPELINES["grid, layers, cache"]),
}


@pytest.mark.parametrize("name", SCORED)
def test_scores_are_those_of_whole_forwards(harness: Harness, name):
    if name not in possible(harness.family, SCORED):
        pytest.skip("this family cannot have it")
    pipeline, mllm = SCORED[name], harness.loaded
    encodings = EncodeCache(pipeline.needs())
    calls = []
    handle = mllm.model.model.get_decoder().register_forward_pre_hook(
        lambda _, __, kwargs: calls.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    for clip in (harness.clips[0], harness.clips[2]):
        sample = clip.samples[0]
        calls.clear()
        ours = score(mllm, mllm.prepare(clip, sample, pipeline, encodings), OPTIONS)
        assert calls[1:] == [1] * (sum(ours.lengths) - len(OPTIONS)), "one prefill, and a step for every token read"
        tokens = [mllm.processor.tokenizer(o, add_special_tokens=False)["input_ids"] for o in OPTIONS]
        theirs = [harness.reference.log_likelihood([*clip.media, sample.question], sample, pipeline, t) for t in tokens]
        assert ours.lengths == tuple(map(len, tokens))
        assert torch.allclose(torch.tensor(ours.log_likelihoods), torch.tensor(theirs), rtol=1e-4, atol=1e-4)
    handle.remove()


def test_order_and_company_change_nothing(harness: Harness):
    """To the bit: going back leaves no trace of the options before."""
    mllm, clip, pipeline = harness.loaded, harness.clips[0], SCORED["grid, layers, cache"]
    request = mllm.prepare(clip, clip.samples[0], pipeline, EncodeCache(pipeline.needs()))
    together = score(mllm, request, OPTIONS).log_likelihoods
    assert score(mllm, request, OPTIONS[::-1]).log_likelihoods == together[::-1]
    assert tuple(score(mllm, request, [option]).log_likelihoods[0] for option in OPTIONS) == together


def test_keeping_all_scores_like_the_baseline_model(harness: Harness):
    mllm, clip = harness.loaded, harness.clips[0]
    plain = None
    for pipeline in (Pipeline(), *possible(harness.family, KEEPING).values()):
        request = mllm.prepare(clip, clip.samples[0], pipeline, EncodeCache(pipeline.needs()))
        found = score(mllm, request, OPTIONS).log_likelihoods
        plain = plain or found
        assert found == plain


@pytest.mark.parametrize("name", SCORED)
def test_own_answers_are_generates(harness: Harness, name):
    """Token by token, whatever acts in grid, layers or cache; and each distribution is that before the token."""
    if name not in possible(harness.family, SCORED):
        pytest.skip("this family cannot have it")
    pipeline, mllm = SCORED[name], harness.loaded
    for clip in harness.clips[:2]:
        request = mllm.prepare(clip, clip.samples[0], pipeline, EncodeCache(pipeline.needs()))
        own = own_answer(mllm, request)
        assert own.ids == mllm.generate([request])[0].ids
        read = score(mllm, request, ["red"], own.ids)
        assert torch.equal(read.next_tokens, own.next_tokens)
        assert divergence(read.next_tokens, own.next_tokens) == 0


def test_divergence_is_the_sum_over_the_vocabulary():
    ours, reference = (torch.randn(3, 7, generator=torch.Generator().manual_seed(k)).log_softmax(-1) for k in (0, 1))
    by_hand = sum(p * (p.log() - q) for p, q in zip(reference.exp().flatten(), ours.flatten(), strict=True)) / 3
    assert divergence(ours, reference) == pytest.approx(float(by_hand), rel=1e-5)
    assert divergence(ours, reference) != pytest.approx(divergence(reference, ours))


def test_an_arm_is_as_far_from_the_untouched_model_as_its_tokens(harness: Harness):
    mllm, clip = harness.loaded, harness.clips[0]
    question = ScoredQuestion.begin(mllm, clip, clip.samples[0], EncodeCache(frozenset()))
    assert question is not None
    for pipeline in (Pipeline(), *possible(harness.family, KEEPING).values()):
        assert replace(question, cache=EncodeCache(pipeline.needs())).likelihoods(pipeline).divergence == 0
    assert question.likelihoods(Pipeline.of("random@0.3")).divergence > 0


def test_options_are_scored_by_their_letters(harness: Harness):
    mllm, clip = harness.loaded, harness.clips[0]
    sample = replace(clip.samples[0], options=("red", "blue"))
    question = ScoredQuestion.begin(mllm, clip, sample, EncodeCache(frozenset()))
    assert question is not None
    request = mllm.prepare(clip, sample, Pipeline(), EncodeCache(frozenset()))
    assert question.likelihoods(Pipeline()).options == score(mllm, request, ["A", "B"]).log_likelihoods
    assert ScoredQuestion.begin(mllm, replace(clip, media=None), sample, EncodeCache(frozenset())) is None
    assert replace(question, clip=replace(clip, media=None)).likelihoods(Pipeline()) is None


@pytest.mark.parametrize(
    "pipeline",
    [Pipeline(), SCORED["random"], Pipeline((thinning((1, "after_attention"), positions="renumber"),))],
    ids=["full", "random", "thinning"],
)
def test_flops_equal_the_counter(harness: Harness, pipeline):
    mllm, clip = harness.loaded, harness.clips[0]
    costs = ModelCosts(mllm.config, mllm.family)
    request = mllm.prepare(clip, clip.samples[0], pipeline, EncodeCache(frozenset()))
    with flop_counter() as counted:
        scores = score(mllm, request, OPTIONS, answer=(5, 6, 7))
    priced = price(scores.trace, costs)
    assert priced.prefill + priced.decode == counted.get_total_flops()


def test_empty_options_are_refused(harness: Harness):
    mllm, clip = harness.loaded, harness.clips[0]
    request = mllm.prepare(clip, clip.samples[0], Pipeline(), EncodeCache(frozenset()))
    for options in ([], ["red", ""]):
        with pytest.raises(SampleError, match="cannot be scored"):
            score(mllm, request, options)
