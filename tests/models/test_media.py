"""Images, several media and none: every family, one prompt at a time and mixed in one batch."""

import pytest

from tests.models.pipelines import thinning, tiers
from tests.models.prompts import LOOKS, SMALL, parts_of
from tokenlab.compressors import Pipeline
from tokenlab.data.samples import Clip, Sample
from tokenlab.errors import SampleError
from tokenlab.functional import frame_budgets
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.costs.price import price
from tokenlab.models.counter import flop_counter
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families import FAMILIES
from tokenlab.testing import ANSWER_TOKENS
from tokenlab.testing.media import noise_image
from tokenlab.testing.stubs import KEEPING


@pytest.mark.parametrize("batch_size", [1, 5])
def test_full_is_plain_generate(media_harness, media_baseline, batch_size):
    assert media_harness.ask(Pipeline(), batch_size=batch_size) == media_baseline


@pytest.mark.parametrize(("media_harness", "name"), tiers(KEEPING, [*FAMILIES]), indirect=["media_harness"])
def test_keep_all_through_the_full_path(media_harness, media_baseline, name):
    assert media_harness.ask(KEEPING[name]) == media_harness.ask(KEEPING[name], batch_size=5) == media_baseline


@pytest.mark.parametrize(("media_harness", "name"), tiers(LOOKS, [*FAMILIES]), indirect=["media_harness"])
def test_reduced_equals_the_reference(media_harness, media_baseline, name):
    """Each medium by itself; what is text passes media_baseline."""
    pipeline = LOOKS[name]
    expected = {
        clip.samples[0].uid: tuple(
            media_harness.reference.reduced(parts_of(clip), clip.samples[0], pipeline, ANSWER_TOKENS)
        )
        for clip in media_harness.clips
    }
    assert expected["text#0"] == media_baseline["text#0"]
    assert expected != media_baseline
    assert media_harness.ask(pipeline) == expected
    assert media_harness.ask(pipeline, clips=media_harness.clips[::-1], batch_size=5) == expected


COUNTED = {
    "full": Pipeline(),
    "random": LOOKS["random"],
    "thinning": Pipeline((thinning((1, "after_attention")),)),
}


@pytest.mark.parametrize(("media_harness", "name"), tiers(COUNTED, [*FAMILIES]), indirect=["media_harness"])
def test_flops_equal_the_counter(media_harness, name):
    mllm, pipeline = media_harness.loaded, COUNTED[name]
    costs = ModelCosts(mllm.config, mllm.family)
    for clip in media_harness.clips:
        with flop_counter() as encoding:
            request = mllm.prepare(clip, clip.samples[0], pipeline, EncodeCache(frozenset()))
        with flop_counter() as generating:
            (answer,) = mllm.generate([request])
        priced = price(answer.trace, costs)
        assert priced.tower + priced.projector == encoding.get_total_flops()
        assert priced.prefill + priced.decode == generating.get_total_flops()


def test_each_medium_has_its_own_budget(media_harness):
    encodings = EncodeCache(frozenset())
    for clip in media_harness.clips:
        loaded, pipeline = media_harness.loaded, LOOKS["random"]
        trace = loaded.prepare(clip, clip.samples[0], pipeline, encodings).trace
        assert [step.medium for step in trace.reductions] == list(range(len(clip.media)))
        for step, medium in zip(trace.reductions, trace.media, strict=True):
            frames = encodings.encode(loaded, clip, step.medium, clip.media[step.medium], pipeline).tokens.frame
            sizes = frames.unique(return_counts=True)[1].tolist()
            assert step.reduction.num_inputs == medium.grid_tokens == sum(sizes)
            assert step.reduction.num_outputs == sum(frame_budgets(0.4, sizes))


def test_a_placeholder_without_its_medium(media_harness):
    word = media_harness.loaded.processor.image_token
    sample = Sample("x", "x", f"what is {word} ?", content=(0, f"what is {word} ?"))
    with pytest.raises(SampleError, match="the question contains the placeholder"):
        media_harness.loaded.prepare(Clip("x", (sample,), (SMALL,)), sample, Pipeline(), EncodeCache(frozenset()))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2)])
def test_odd_images_are_answered_or_refused_in_a_line(media_harness, size):
    sample = Sample("x", "x", "what is there ?")
    clip = Clip("x", (sample,), (noise_image(5, *size),))
    (answer,) = media_harness.loaded.answer([clip], LOOKS["random"], EncodeCache(frozenset()))
    assert answer.error or answer.ids
    assert "\n" not in (answer.error or "")
