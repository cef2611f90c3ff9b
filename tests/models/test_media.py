"""Images, several media and none: every family, one prompt at a time and mixed in one batch."""

import numpy as np
import pytest

from tests.checkpoints import ANSWER_TOKENS
from tests.models.reference import Reference
from tests.models.test_costs import thinning
from tests.models.test_exactness import KEEPING, PIPELINES, Bench, build, possible
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.errors import SampleError
from tokenlab.evaluation import flops
from tokenlab.models.costs import ModelCosts, counter
from tokenlab.models.families import FAMILIES
from tokenlab.models.frozen import Encodings, FrozenMLLM
from tokenlab.models.settings import MLLM


def image(seed: int, height: int, width: int) -> Frames:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return Frames(pixels, (0,), np.zeros(1), still=True)


def video(seed: int, num_frames: int) -> Frames:
    pixels = np.random.default_rng(seed).integers(0, 256, (num_frames, 64, 64, 3), dtype=np.uint8)
    return Frames(pixels, tuple(range(0, 2 * num_frames, 2)), np.arange(num_frames) / 2)


WIDE, SMALL, FIRST, SECOND = image(1, 60, 110), image(2, 64, 64), video(3, 3), video(4, 3)
PROMPTS = {
    "image": (WIDE, "what is there ?"),
    "text": ("what colour is the circle ?",),
    "text between images": ("is", SMALL, "the same as", WIDE, "?"),
    "two videos": (FIRST, "and", SECOND, "how many objects ?"),  # of one length: most stock processors stack them
    "image in the middle": ("what happens ?", FIRST, "is it like", SMALL, "?"),
}
"""Texts and media in the order of the prompt."""

ONE_KIND_A_PROMPT = ("smolvlm",)
"""Where plain transformers, with which we compare, writes a video's pixels over an image's."""

LOOKS = {
    "random": Pipeline((REGISTRY["random"](retention_ratio=0.4),)),
    "text, renumbered": Pipeline((REGISTRY["text"](retention_ratio=0.4, positions="renumber"),)),
    **{name: build(PIPELINES[name]) for name in ("fastv", "framefusion", "tome", "frames then grid")},
    "grid, layers, cache": Pipeline(
        (REGISTRY["random"](retention_ratio=0.7), *build(PIPELINES["grid, layers, cache"]).compressors[1:])
    ),
}


def clips(family: str) -> list[Clip]:
    """A clip a prompt that the family can read."""
    found = []
    for name, parts in PROMPTS.items():
        media = tuple(part for part in parts if isinstance(part, Frames))
        if FAMILIES[family].video is None and not all(frames.still for frames in media):
            continue
        if family in ONE_KIND_A_PROMPT and len({frames.still for frames in media}) > 1:
            continue
        numbers = iter(range(len(media)))
        content = tuple(part if isinstance(part, str) else next(numbers) for part in parts)
        question = " ".join(part for part in parts if isinstance(part, str))
        found.append(Clip(name, (Sample(f"{name}#0", name, question, content=content),), media))
    return found


def parts_of(clip: Clip) -> list:
    return list(PROMPTS[clip.cluster])


@pytest.fixture(scope="module", params=FAMILIES)
def bench(request, checkpoints) -> Bench:
    folder = str(checkpoints[request.param])
    mllm = FrozenMLLM(MLLM(checkpoint=folder, max_new_tokens=ANSWER_TOKENS))
    mllm.load()
    return Bench(mllm, Reference(folder), clips(request.param))


@pytest.fixture(scope="module")
def untouched(bench):
    return {clip.samples[0].uid: tuple(bench.reference.plain(parts_of(clip), ANSWER_TOKENS)) for clip in bench.clips}


@pytest.mark.parametrize("batch_size", [1, 5])
def test_full_is_plain_generate(bench, untouched, batch_size):
    assert bench.ask(Pipeline(), batch_size=batch_size) == untouched


@pytest.mark.parametrize("name", KEEPING)
def test_keep_all_through_the_full_path(bench, untouched, name):
    if name not in possible(bench, KEEPING):
        pytest.skip("this family cannot have it")
    assert bench.ask(KEEPING[name]) == bench.ask(KEEPING[name], batch_size=5) == untouched


@pytest.mark.parametrize("name", LOOKS)
def test_reduced_equals_the_reference(bench, untouched, name):
    """Each medium by itself; what is text passes untouched."""
    if name not in possible(bench, LOOKS):
        pytest.skip("this family cannot have it")
    pipeline = LOOKS[name]
    expected = {
        clip.samples[0].uid: tuple(bench.reference.reduced(parts_of(clip), clip.samples[0], pipeline, ANSWER_TOKENS))
        for clip in bench.clips
    }
    assert expected["text#0"] == untouched["text#0"]
    assert expected != untouched
    assert bench.ask(pipeline) == expected
    assert bench.ask(pipeline, clips=bench.clips[::-1], batch_size=5) == expected


@pytest.mark.parametrize("name", ["full", "random", "thinning"])
def test_flops_equal_the_counter(bench, name):
    pipelines = {
        "full": Pipeline(),
        "random": LOOKS["random"],
        "thinning": Pipeline((thinning((1, "after_attention")),)),
    }
    mllm, pipeline = bench.mllm, pipelines[name]
    costs = ModelCosts(mllm.config, mllm.family)
    for clip in bench.clips:
        with counter() as encoding:
            request = mllm.reduce(clip, clip.samples[0], pipeline, Encodings(mllm, frozenset()))
        with counter() as generating:
            (answer,) = mllm.generate([request])
        priced = flops(answer.trace, costs)
        assert priced.tower + priced.projector == encoding.get_total_flops()
        assert priced.prefill + priced.decode == generating.get_total_flops()


def test_each_medium_has_its_own_budget(bench):
    encodings = Encodings(bench.mllm, frozenset())
    for clip in bench.clips:
        trace = bench.mllm.reduce(clip, clip.samples[0], LOOKS["random"], encodings).trace
        assert [step.medium for step in trace.steps] == list(range(len(clip.media)))
        for step, medium in zip(trace.steps, trace.media, strict=True):
            assert step.reduction.num_inputs == medium.grid_tokens
            assert 0.3 < step.reduction.num_outputs / medium.grid_tokens < 0.55


def test_a_placeholder_without_its_medium(bench):
    word = bench.mllm.writer.processor.image_token
    sample = Sample("x", "x", f"what is {word} ?", content=(0, f"what is {word} ?"))
    with pytest.raises(SampleError, match="the question contains the placeholder"):
        bench.mllm.reduce(Clip("x", (sample,), (SMALL,)), sample, Pipeline(), Encodings(bench.mllm, frozenset()))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2)])
def test_odd_images_are_answered_or_refused_in_a_line(bench, size):
    sample = Sample("x", "x", "what is there ?")
    clip = Clip("x", (sample,), (image(5, *size),))
    (answer,) = bench.mllm.answer([clip], LOOKS["random"], Encodings(bench.mllm, frozenset()))
    assert answer.error or answer.ids
    assert "\n" not in (answer.error or "")
