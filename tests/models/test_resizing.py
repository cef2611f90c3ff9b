"""Smaller pictures: answers of the model that is shown them, and counts against its own size."""

from dataclasses import dataclass
from time import monotonic, sleep
from typing import ClassVar

import pytest
import torch

from tests.models.harness import Harness, settings
from tokenlab.compressors import REGISTRY, FrameSelection, Pipeline, PixelReduction
from tokenlab.data.samples import Clip, Sample
from tokenlab.errors import SampleError
from tokenlab.models.clock import stopwatch
from tokenlab.models.costs.price import price
from tokenlab.models.counter import flop_counter
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families import FAMILIES
from tokenlab.models.families.support import why_unsupported
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.vision.processing import MediaProcessor
from tokenlab.testing import ANSWER_TOKENS
from tokenlab.testing.media import noise_image, noise_video

NATIVE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families that read every picture at its own size."""
TILED = {"llava_next": 0.7, "llava_onevision": 0.75, "internvl": 0.5}
"""Families that cut images into tiles, fewer of smaller ones; and a share of the tokens that this leaves."""
PIPELINES = {
    "native": Pipeline.of("native@0.5"),
    "frames, pixels": Pipeline.of("frame_stride@0.5+native@0.6"),
    "pixels, grid, layers": Pipeline.of("native@0.7+topic@0.5+fastv@0.5"),
}
QUESTION = "what is there ?"


def native(family: str):
    return pytest.param(family, marks=[] if family == "qwen3_vl" else pytest.mark.matrix)


of_own_size = pytest.mark.parametrize("harness", [native(family) for family in NATIVE], indirect=True)


@of_own_size
@pytest.mark.parametrize("name", PIPELINES)
def test_the_model_is_shown_smaller_pictures(harness: Harness, name: str):
    """The reference shrinks them by hand; whatever arms share media, and however many prompts go together."""
    pipeline = PIPELINES[name]
    expected = {
        sample.uid: tuple(harness.reference.reduced([frames, sample.question], sample, pipeline, ANSWER_TOKENS))
        for frames, sample in harness.samples()
    }
    assert harness.ask(pipeline) == expected != harness.baseline
    assert harness.ask(pipeline, clips=harness.clips[::-1], batch_size=9) == expected
    cache = EncodeCache(pipeline.needs())
    for arm in (Pipeline(), pipeline, Pipeline.of("native@0.45")):
        answers = {each.sample.uid: each.ids for each in harness.loaded.answer(harness.clips, arm, cache)}
        assert answers == harness.ask(arm)


@of_own_size
@pytest.mark.parametrize("name", PIPELINES)
def test_counts_are_of_the_pictures_own_size(harness: Harness, name: str):
    own_size = Pipeline(PIPELINES[name].of_stage(FrameSelection))
    for clip in harness.clips:
        full, smaller = (harness.prepare(clip, each).trace for each in (own_size, PIPELINES[name]))
        assert smaller.visual_tokens_in == full.visual_tokens_in
        assert smaller.prompt_tokens == full.prompt_tokens
        left = [smaller.visual_tokens_after(number) for number in range(len(smaller.reductions) + 1)]
        assert left == sorted(left, reverse=True)
        assert smaller.prefill_tokens < full.prefill_tokens
    (applied,) = harness.prepare(clip, PIPELINES["native"]).trace.reductions
    assert 0.25 <= applied.reduction.num_outputs / applied.reduction.num_inputs <= 0.5


@of_own_size
def test_flops_are_counted_at_the_size_that_is_shown(harness: Harness):
    with flop_counter() as counted:
        request = harness.prepare(harness.clips[0], PIPELINES["native"])
    priced = price(request.trace, harness.costs)
    assert priced.tower + priced.projector + priced.method == counted.get_total_flops()
    assert priced.tower < price(harness.prepare(harness.clips[0], Pipeline()).trace, harness.costs).tower


def prepare(loaded: LoadedModel, medium, pipeline: Pipeline):
    clip = Clip("m", (Sample("m#0", "m", QUESTION),), (medium,))
    return loaded.prepare(clip, clip.samples[0], pipeline, EncodeCache(pipeline.needs()))


@pytest.mark.parametrize("family", TILED)
def test_a_smaller_image_is_cut_into_fewer_tiles(checkpoints, family: str):
    """Its newlines are counted as those of the image at its own size."""
    loaded, image, ratio = LoadedModel.load(settings(str(checkpoints[family]))), noise_image(1, 150, 200), TILED[family]
    full, smaller = (prepare(loaded, image, each).trace for each in (Pipeline(), Pipeline.of(f"native@{ratio}")))
    assert smaller.passes < full.passes
    assert smaller.visual_tokens_in == full.visual_tokens_in
    assert smaller.prompt_tokens == full.prompt_tokens
    assert smaller.media[0].separators == full.media[0].separators
    assert smaller.visual_tokens_out <= ratio * full.visual_tokens_out
    assert full.prefill_tokens - full.visual_tokens_out == smaller.prefill_tokens - smaller.visual_tokens_out


def test_frames_of_one_size_cannot_be_shown_smaller(checkpoints):
    loaded = LoadedModel.load(settings(str(checkpoints["llava_onevision"])))
    with pytest.raises(SampleError, match=r"^native cannot act on this medium: no smaller picture brings its \d+ vis"):
        prepare(loaded, noise_video(1, 4), Pipeline.of("native@0.5"))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_it_is_refused_where_size_never_matters(family):
    reason = why_unsupported(FAMILIES[family], REGISTRY["native"].example())
    assert (reason is None) == (family in (*NATIVE, *TILED, "llava_next_video"))
    assert reason is None or reason.endswith("reads every picture at one size; show it fewer frames instead")


@dataclass(frozen=True, kw_only=True)
class Stretching(PixelReduction):
    """Shows more pixels than there are."""

    name: ClassVar[str] = "stretching"

    def choose_size(self, view):
        return view.size[0], view.size[1] + 1


@pytest.mark.parametrize("harness", ["qwen3_vl"], indirect=True)
def test_to_find_a_size_takes_no_time(harness: Harness, monkeypatch):
    """Neither of the stages nor of what no stage claims."""
    slept = []

    def slowly(self, frames, size, size_at=MediaProcessor.size_at):
        sleep(0.05)
        slept.append(50)
        return size_at(self, frames, size)

    monkeypatch.setattr(MediaProcessor, "size_at", slowly)
    with stopwatch(torch.device("cpu")) as watch:
        began = monotonic()
        harness.prepare(harness.clips[0], PIPELINES["native"])
        spent = 1000 * (monotonic() - began)
    assert sum(watch.milliseconds.values()) <= spent - sum(slept)
    assert len(slept) >= 6


@pytest.mark.parametrize("harness", ["qwen3_vl"], indirect=True)
def test_pictures_cannot_grow(harness: Harness):
    with pytest.raises(SampleError, match=r"^stretching cannot act on this medium: .*\(64, 64\).* \(64, 65\)"):
        harness.prepare(harness.clips[0], Pipeline((Stretching(retention_ratio=0.5),)))
