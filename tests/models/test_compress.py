"""The context manager on a model of one's own: the bench's answers, from the processor's output alone."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

import tokenlab
from tests.models.harness import Harness
from tests.models.pipelines import PIPELINES, build, possible
from tests.models.prompts import FIRST, LOOKS, SMALL, WIDE, parts_of
from tokenlab.compressors import REGISTRY, GridReduction, Pipeline, Reduction, budget
from tokenlab.data.samples import Clip, Sample
from tokenlab.errors import UserError
from tokenlab.models.compress import _check_pictures
from tokenlab.testing import ANSWER_TOKENS
from tokenlab.testing.prompts import noise, process
from tokenlab.testing.stubs import KEEPING

README = Path(__file__).parents[2] / "README.md"

SAME = {
    "text, renumbered": LOOKS["text, renumbered"],
    **{name: build(PIPELINES[name]) for name in ("fastv", "framefusion", "tome", "topic")},
    "grid, layers, cache": Pipeline(
        (REGISTRY["text"](retention_ratio=0.6), *build(PIPELINES["grid, layers, cache"]).compressors[1:])
    ),
}
"""Pipelines without noise, which would follow the sample's name."""

AS_IMAGES = ("llava", "internvl", "smolvlm")
"""Families whose frames stand in the prompt as images."""

IN_TILES = ("internvl", "smolvlm")
"""Those of them that cut an image into tiles."""


def generate(media_harness: Harness, pipeline, inputs, questions=(), pictures=None, **more):
    model, processor = media_harness.reference.model, media_harness.loaded.processor
    with tokenlab.compress(model, processor, pipeline, questions=questions, pictures=pictures) as traces:
        output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, **more)
    return output[:, inputs["input_ids"].shape[1] :].tolist(), traces


def joined(media_harness: Harness) -> bool:
    return media_harness.reference.kind in AS_IMAGES


def pictures_of(media_harness: Harness, clip: Clip) -> str | None:
    """What has to be said of a clip's pictures."""
    if not joined(media_harness) or not clip.media:
        return None
    if all(frames.is_image for frames in clip.media):
        return "images" if len(clip.media) > 1 else None
    return "frames"


def same_media(media_harness: Harness):
    """Clips that are read alike: where frames stand as images, a video beside another medium is one with it."""
    return [clip for clip in media_harness.clips if pictures_of(media_harness, clip) != "frames" or len(clip.media) < 2]


@pytest.mark.parametrize("name", KEEPING)
def test_keeping_all_is_plain_generate(media_harness, media_baseline, name):
    if name not in possible(media_harness.family, KEEPING):
        pytest.skip("this family cannot have it")
    for clip in media_harness.clips:
        inputs = media_harness.reference.inputs(*parts_of(clip))
        ((ids,), (trace,)) = generate(media_harness, KEEPING[name], inputs, pictures=pictures_of(media_harness, clip))
        assert tuple(ids) == media_baseline[clip.samples[0].uid]
        assert trace.visual_tokens_out == trace.visual_tokens_in
        assert trace.generated_tokens == len(ids)


@pytest.mark.parametrize("name", SAME)
def test_answers_and_counts_are_the_benchs(media_harness, media_baseline, name):
    if name not in possible(media_harness.family, SAME):
        pytest.skip("this family cannot have it")
    clips = same_media(media_harness)
    if name == "topic" and media_harness.family.image.to_grid.__name__ == "mosaic":  # and it reads whole grids
        clips = [clip for clip in clips if not any(frames.is_image for frames in clip.media)]
    answers = {a.sample.uid: a for a in media_harness.answers(SAME[name], clips)}
    for clip in clips:
        expected, question = answers[clip.samples[0].uid], clip.samples[0].question
        inputs = media_harness.reference.inputs(*parts_of(clip))
        ((ids,), (trace,)) = generate(media_harness, SAME[name], inputs, [question], pictures_of(media_harness, clip))
        assert tuple(ids) == expected.ids
        assert trace.media == tuple(replace(medium, frames=()) for medium in expected.trace.media)
        assert [trace.fates(k) for k in range(len(trace.media))] == [
            expected.trace.fates(k) for k in range(len(trace.media))
        ]
        assert (trace.visual_tokens_in, trace.visual_tokens_out) == (
            expected.trace.visual_tokens_in,
            expected.trace.visual_tokens_out,
        )
        assert (trace.passes, trace.mlp_tokens, trace.visible_tokens) == (
            expected.trace.passes,
            expected.trace.mlp_tokens,
            expected.trace.visible_tokens,
        )


TWO_IMAGES = ["is", SMALL, "the same as", WIDE, "?"]
PAIRS = Pipeline((REGISTRY["similarity"](retention_ratio=0.5, separators="keep"),))
"""Merges frames that resemble each other, so that frames of one video fare otherwise than images."""


def by_hand(media_harness: Harness, parts, pipeline) -> list[int]:
    sample = Sample("x#0", "x", " ".join(part for part in parts if isinstance(part, str)))
    return media_harness.reference.reduced(parts, sample, pipeline, ANSWER_TOKENS)


@pytest.mark.parametrize("name", ["fastv", "similarity"])
def test_images_are_media_of_their_own_and_frames_are_one(media_harness, name):
    pipeline = {"fastv": SAME["fastv"], "similarity": PAIRS}[name]
    if media_harness.family.image.to_grid.__name__ == "mosaic" and name == "similarity":
        pytest.skip("it reads whole grids, which images of any resolution are not")
    inputs = media_harness.reference.inputs(*TWO_IMAGES)
    ((ids,), (trace,)) = generate(media_harness, pipeline, inputs, pictures="images")
    assert ids == by_hand(media_harness, TWO_IMAGES, pipeline)
    assert [medium.is_image for medium in trace.media] == [True, True]
    assert [applied.medium for applied in trace.reductions] == [0, 1]
    if not joined(media_harness):
        return
    ((others,), (joint,)) = generate(media_harness, pipeline, inputs, pictures="frames")
    assert others != ids
    (medium,) = joint.media
    assert not medium.is_image
    assert medium.grid_tokens == trace.visual_tokens_in
    assert joint.passes == (sum(trace.passes),)


def test_frames_are_one_video(media_harness):
    if not joined(media_harness):
        pytest.skip("its videos have placeholders of their own")
    parts = [FIRST, "how many objects ?"]
    ((ids,), (trace,)) = generate(media_harness, PAIRS, media_harness.reference.inputs(*parts), pictures="frames")
    assert ids == by_hand(media_harness, parts, PAIRS)
    assert trace.grids[0][0] == trace.passes[0] == len(FIRST.numbers)
    assert trace.visual_tokens_out < trace.visual_tokens_in
    following = Pipeline((REGISTRY["similarity"](retention_ratio=0.5, separators="follow"),))
    same, _ = generate(media_harness, following, media_harness.reference.inputs(*parts), pictures="frames")
    assert same == [ids]  # what stands between frames is left, for it may be anybody's words


@dataclass(frozen=True, kw_only=True)
class FirstTiles(GridReduction):
    """Keeps the first frames, or tiles, whole."""

    name: ClassVar[str] = "first_tiles"

    def reduce_grid(self, view):
        left = view.tokens.frame < budget(self.retention_ratio, view.tokens.grid[0])
        return Reduction.keep(left.nonzero()[:, 0], view.tokens.num_tokens)


@pytest.mark.parametrize("kept", [0.2, 0.5])
def test_one_image_is_one_medium_however_many_tiles(media_harness, kept):
    """Whose tiles lose their tags, as in the bench, when they lose every token."""
    if media_harness.reference.kind not in IN_TILES:
        pytest.skip("it has no tiles that stand as frames")
    parts, pipeline = [WIDE, "what is there ?"], Pipeline((FirstTiles(retention_ratio=kept),))
    inputs = media_harness.reference.inputs(*parts)
    ((ids,), (trace,)) = generate(media_harness, pipeline, inputs)
    assert ids == by_hand(media_harness, parts, pipeline)
    (medium,) = trace.media
    assert medium.is_image
    assert trace.passes[0] > 1
    tags = len(inputs["input_ids"][0]) - trace.prefill_tokens - (trace.visual_tokens_in - trace.visual_tokens_out)
    assert (tags > 0) == (media_harness.reference.kind == "smolvlm")


def test_batches_change_no_answer(media_harness):
    two = ["is", noise(2, 64, 64), "the same as", noise(4, 60, 110), "?"]
    rows = [[noise(1, 60, 110), "what is there ?"], two, ["nothing ?"], [noise(3, 64, 64), "how many ?"]]
    processor = media_harness.loaded.processor
    processor.tokenizer.padding_side = "left"
    together, traces = generate(media_harness, SAME["fastv"], process(processor, *rows), pictures="images")
    assert [len(trace.media) for trace in traces] == [1, 2, 0, 1]
    for row, ids, trace in zip(rows, together, traces, strict=True):
        ((alone,), (own,)) = generate(media_harness, SAME["fastv"], process(processor, row), pictures="images")
        assert ids[: len(alone)] == alone
        assert trace.mlp_tokens == own.mlp_tokens


def test_the_model_is_as_it_was(media_harness):
    model, processor = media_harness.reference.model, media_harness.loaded.processor

    def state():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        return hooks, [id(m.config) for m in model.modules() if hasattr(m, "config")], sorted(vars(model))

    before = state()
    inputs = media_harness.reference.inputs(*parts_of(media_harness.clips[0]))
    generate(media_harness, SAME["fastv"], inputs)
    with pytest.raises(RuntimeError, match="mine"), tokenlab.compress(model, processor, SAME["fastv"]):
        raise RuntimeError("mine")
    broken = {**inputs, "input_ids": inputs["input_ids"][:, :-1], "attention_mask": inputs["attention_mask"][:, :-1]}
    with pytest.raises(Exception), tokenlab.compress(model, processor, SAME["fastv"]):  # noqa: B017, PT011
        model.generate(**broken, max_new_tokens=-1)
    assert state() == before


def test_generate_returns_what_the_models_own_would(media_harness):
    """The original prompt in front, and lengths as they were asked for."""
    model, processor = media_harness.reference.model, media_harness.loaded.processor
    inputs = media_harness.reference.inputs(*parts_of(media_harness.clips[0]))
    prompt = inputs["input_ids"].shape[1]
    with tokenlab.compress(model, processor, [REGISTRY["random"](retention_ratio=0.4)]) as traces:
        relative = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        absolute = model.generate(**inputs, max_length=prompt + 3, do_sample=False)
        config = GenerationConfig(max_length=prompt + 3, do_sample=False, eos_token_id=3, pad_token_id=0)
        configured = model.generate(**inputs, generation_config=config)
        described = model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True, output_scores=True)
    assert traces[0].prefill_tokens < traces[0].prompt_tokens == prompt
    assert torch.equal(relative[:, :prompt], inputs["input_ids"])
    assert torch.equal(absolute, relative[:, : prompt + 3])
    assert torch.equal(configured, absolute)
    assert torch.equal(described.sequences, relative[:, : prompt + 2])
    assert len(described.scores) == 2


def test_of_nested_contexts_the_innermost_counts(media_harness):
    model, processor = media_harness.reference.model, media_harness.loaded.processor
    inputs = media_harness.reference.inputs(*parts_of(media_harness.clips[0]))
    half, tenth = (REGISTRY["random"](retention_ratio=ratio) for ratio in (0.5, 0.1))
    with tokenlab.compress(model, processor, [half]) as outer:
        with tokenlab.compress(model, processor, [tenth]) as inner:
            model.generate(**inputs, max_new_tokens=1)
        model.generate(**inputs, max_new_tokens=1)
    assert [len(outer), len(inner)] == [1, 1]
    assert inner[0].visual_tokens_out < outer[0].visual_tokens_out < outer[0].visual_tokens_in


def test_a_deep_copy_is_plain(media_harness, media_baseline):
    model, processor, clip = media_harness.reference.model, media_harness.loaded.processor, media_harness.clips[0]
    inputs = media_harness.reference.inputs(*parts_of(clip))
    with tokenlab.compress(model, processor, [REGISTRY["random"](retention_ratio=0.1)]) as traces:
        output = copy.deepcopy(model).generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    assert tuple(output[0, inputs["input_ids"].shape[1] :].tolist()) == media_baseline[clip.samples[0].uid]
    assert not traces


def test_what_cannot_be_is_refused_by_name(media_harness):
    model, processor = media_harness.reference.model, media_harness.loaded.processor
    inputs = media_harness.reference.inputs(*parts_of(media_harness.clips[0]))
    for more, message in (
        ({"num_beams": 2}, "asks for num_beams=2"),
        ({"cache_implementation": "static"}, "a cache of this kind"),
        ({"assistant_model": model}, "asks for assistant_model"),
        ({"prompt_lookup_num_tokens": 3}, "assisted decoding"),
        ({"prefill_chunk_size": 8}, "chunked prefill"),
        ({"use_cache": False}, "use_cache=False"),
        ({"generation_config": GenerationConfig(use_cache=False)}, "use_cache=False"),
        ({"cache": DynamicCache()}, "asks for cache"),
        ({"past_key_values": DynamicCache()}, "asks for past_key_values"),
    ):
        with pytest.raises(UserError, match=message):
            generate(media_harness, Pipeline(), inputs, **more)
    right = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
    right["attention_mask"][:, -1] = 0
    with pytest.raises(UserError, match="padded on the left"):
        generate(media_harness, Pipeline(), right)
    fewer = {name: value for name, value in inputs.items() if not name.startswith("pixel_")}
    with pytest.raises(UserError, match="placeholders for more images than there are"):
        generate(media_harness, Pipeline(), fewer)
    with pytest.raises(UserError, match="give questions="):
        generate(media_harness, SAME["text, renumbered"], inputs)
    with pytest.raises(UserError, match="2 questions for 1 prompts"):
        generate(media_harness, SAME["text, renumbered"], inputs, ["a ?", "b ?"])
    with pytest.raises(UserError, match="chooses frames"):
        tokenlab.compress(model, processor, [REGISTRY["frame_stride"](retention_ratio=0.5)]).__enter__()
    with pytest.raises(UserError, match="no input_ids"), tokenlab.compress(model, processor, Pipeline()):
        model.generate(**{name: value for name, value in inputs.items() if name != "input_ids"})


def test_pictures_are_never_guessed(media_harness):
    with pytest.raises(UserError, match="pictures='frame': it is 'images', 'frames' or left out"):
        _check_pictures(media_harness.family, "frame")
    rows = [[noise(1, 64, 64), "what is there ?"], [noise(2, 60, 110), "is like", noise(3, 64, 64), "?"]]
    processor = media_harness.loaded.processor
    processor.tokenizer.padding_side = "left"
    inputs = process(processor, *rows)
    if not joined(media_harness):
        unasked, images = (
            generate(media_harness, SAME["fastv"], inputs, pictures=pictures) for pictures in (None, "images")
        )
        assert unasked[0] == images[0]
        assert [trace.mlp_tokens for trace in unasked[1]] == [trace.mlp_tokens for trace in images[1]]
        with pytest.raises(UserError, match=r"^compress: pictures='frames': in .* prompts images are no frames"):
            generate(media_harness, SAME["fastv"], inputs, pictures="frames")
        return
    with pytest.raises(UserError, match=r"^generate: prompt 1 has 2 pictures, .*'images'.* or pictures='frames'$"):
        generate(media_harness, SAME["fastv"], inputs)
    end = int((inputs["input_ids"][1] == media_harness.reference.image).nonzero().max())
    cut = {**inputs, **{name: inputs[name][1:, :end] for name in ("input_ids", "attention_mask")}}
    for pictures in ("images", "frames"):
        with pytest.raises(UserError, match="in prompt 0 are not of whole pictures"):
            generate(media_harness, SAME["fastv"], cut, pictures=pictures)
    fewer = {name: value[:1] if name.startswith("pixel_") else value for name, value in inputs.items()}
    with pytest.raises(UserError, match="prompt 1 has placeholders for more images than there are"):
        generate(media_harness, SAME["fastv"], fewer, pictures="images")


def test_the_example_in_the_readme_runs(media_harness, capsys):
    (example,) = [
        block for block in Path("README.md").read_text().split("```python\n") if "tokenlab.compress(" in block
    ]
    inputs = media_harness.reference.inputs(*parts_of(media_harness.clips[1]))  # text: nothing to lose
    shown = media_harness.reference.inputs(*parts_of(media_harness.clips[0]))
    names = {"model": media_harness.reference.model, "processor": media_harness.loaded.processor}
    if media_harness.family.image.to_grid.__name__ == "mosaic":
        pytest.skip("VisionZip looks at whole grids, which images of any resolution are not")
    for given in (inputs, shown):
        exec(example.split("```")[0], {**names, "inputs": {**given, "max_new_tokens": 3}})
    counts = [line.split()[0::9] for line in capsys.readouterr().out.splitlines()]
    assert counts[0] == ["0", "0"]
    assert int(counts[1][1]) < 0.4 * int(counts[1][0])
