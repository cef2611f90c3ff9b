"""The context manager on a model of one's own: the bench's answers, from the processor's output alone."""

from pathlib import Path

import pytest
import torch

import tokenlab
from tests.checkpoints import ANSWER_TOKENS
from tests.checkpoints.ask import noise, process
from tests.models.test_exactness import KEEPING, PIPELINES, build, possible
from tests.models.test_media import FIRST, LOOKS, SMALL, WIDE, Bench, bench, parts_of, untouched  # noqa: F401
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.data.samples import Clip, Sample
from tokenlab.errors import UserError
from tokenlab.models.compress import _check_pictures

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


def generate(bench: Bench, pipeline, inputs, questions=(), pictures=None, **more):  # noqa: F811
    model, processor = bench.reference.model, bench.mllm.writer.processor
    with tokenlab.compress(model, processor, pipeline, questions=questions, pictures=pictures) as traces:
        output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, **more)
    return output[:, inputs["input_ids"].shape[1] :].tolist(), traces


def joined(bench: Bench) -> bool:  # noqa: F811
    return bench.reference.kind in AS_IMAGES


def told(bench: Bench, clip: Clip) -> str | None:  # noqa: F811
    """What has to be said of a clip's pictures."""
    if not joined(bench) or not clip.media:
        return None
    if all(frames.still for frames in clip.media):
        return "images" if len(clip.media) > 1 else None
    return "frames"


def same_media(bench: Bench):  # noqa: F811
    """Clips that are read alike: where frames stand as images, a video beside another medium is one with it."""
    return [clip for clip in bench.clips if told(bench, clip) != "frames" or len(clip.media) < 2]


@pytest.mark.parametrize("name", KEEPING)
def test_keeping_all_is_plain_generate(bench, untouched, name):  # noqa: F811
    if name not in possible(bench, KEEPING):
        pytest.skip("this family cannot have it")
    for clip in bench.clips:
        inputs = bench.reference.inputs(*parts_of(clip))
        ((ids,), (trace,)) = generate(bench, KEEPING[name], inputs, pictures=told(bench, clip))
        assert tuple(ids) == untouched[clip.samples[0].uid]
        assert trace.visual_tokens_out == trace.visual_tokens_in
        assert trace.generated_tokens == len(ids)


@pytest.mark.parametrize("name", SAME)
def test_answers_and_counts_are_the_benchs(bench, untouched, name):  # noqa: F811
    if name not in possible(bench, SAME):
        pytest.skip("this family cannot have it")
    clips = same_media(bench)
    if name == "topic" and bench.mllm.family.image.to_grid.__name__ == "mosaic":  # and it reads whole grids
        clips = [clip for clip in clips if not any(frames.still for frames in clip.media)]
    answers = {a.sample.uid: a for a in bench.answers(SAME[name], clips)}
    for clip in clips:
        expected, question = answers[clip.samples[0].uid], clip.samples[0].question
        inputs = bench.reference.inputs(*parts_of(clip))
        ((ids,), (trace,)) = generate(bench, SAME[name], inputs, [question], told(bench, clip))
        assert tuple(ids) == expected.ids
        assert trace.media == expected.trace.media
        assert (trace.visual_tokens_in, trace.visual_tokens_out) == (
            expected.trace.visual_tokens_in,
            expected.trace.visual_tokens_out,
        )
        assert (trace.passes, trace.mlp_tokens, trace.decode_sight) == (
            expected.trace.passes,
            expected.trace.mlp_tokens,
            expected.trace.decode_sight,
        )


TWO_IMAGES = ["is", SMALL, "the same as", WIDE, "?"]
PAIRS = Pipeline((REGISTRY["similarity"](retention_ratio=0.5, separators="keep"),))
"""Merges frames that resemble each other, so that frames of one video fare otherwise than images."""


def by_hand(bench: Bench, parts, pipeline) -> list[int]:  # noqa: F811
    sample = Sample("x#0", "x", " ".join(part for part in parts if isinstance(part, str)))
    return bench.reference.reduced(parts, sample, pipeline, ANSWER_TOKENS)


@pytest.mark.parametrize("name", ["fastv", "similarity"])
def test_images_are_media_of_their_own_and_frames_are_one(bench, name):  # noqa: F811
    pipeline = {"fastv": SAME["fastv"], "similarity": PAIRS}[name]
    if bench.mllm.family.image.to_grid.__name__ == "mosaic" and name == "similarity":
        pytest.skip("it reads whole grids, which images of any resolution are not")
    inputs = bench.reference.inputs(*TWO_IMAGES)
    ((ids,), (trace,)) = generate(bench, pipeline, inputs, pictures="images")
    assert ids == by_hand(bench, TWO_IMAGES, pipeline)
    assert [medium.still for medium in trace.media] == [True, True]
    assert [step.medium for step in trace.steps] == [0, 1]
    if not joined(bench):
        return
    ((others,), (joint,)) = generate(bench, pipeline, inputs, pictures="frames")
    assert others != ids
    (medium,) = joint.media
    assert not medium.still
    assert medium.grid_tokens == trace.visual_tokens_in
    assert joint.passes == (sum(trace.passes),)


def test_frames_are_one_video(bench):  # noqa: F811
    if not joined(bench):
        pytest.skip("its videos have placeholders of their own")
    parts = [FIRST, "how many objects ?"]
    ((ids,), (trace,)) = generate(bench, PAIRS, bench.reference.inputs(*parts), pictures="frames")
    assert ids == by_hand(bench, parts, PAIRS)
    assert trace.grids[0][0] == trace.passes[0] == len(FIRST.numbers)
    assert trace.visual_tokens_out < trace.visual_tokens_in
    following = Pipeline((REGISTRY["similarity"](retention_ratio=0.5, separators="follow"),))
    same, _ = generate(bench, following, bench.reference.inputs(*parts), pictures="frames")
    assert same == [ids]  # what stands between frames is left, for it may be anybody's words


@pytest.mark.parametrize("kept", [0.2, 0.5])
def test_one_image_is_one_medium_however_many_tiles(bench, kept):  # noqa: F811
    """Whose tiles lose their tags, as in the bench, when they lose every token."""
    if bench.reference.kind not in IN_TILES:
        pytest.skip("it has no tiles that stand as frames")
    parts, pipeline = [WIDE, "what is there ?"], Pipeline((REGISTRY["similarity"](retention_ratio=kept),))
    inputs = bench.reference.inputs(*parts)
    ((ids,), (trace,)) = generate(bench, pipeline, inputs)
    assert ids == by_hand(bench, parts, pipeline)
    (medium,) = trace.media
    assert medium.still
    assert trace.passes[0] > 1
    tags = len(inputs["input_ids"][0]) - trace.prefill_tokens - (trace.visual_tokens_in - trace.visual_tokens_out)
    assert (tags > 0) == (bench.reference.kind == "smolvlm")


def test_batches_change_no_answer(bench):  # noqa: F811
    two = ["is", noise(2, 64, 64), "the same as", noise(4, 60, 110), "?"]
    rows = [[noise(1, 60, 110), "what is there ?"], two, ["nothing ?"], [noise(3, 64, 64), "how many ?"]]
    processor = bench.mllm.writer.processor
    processor.tokenizer.padding_side = "left"
    together, traces = generate(bench, SAME["fastv"], process(processor, *rows), pictures="images")
    assert [len(trace.media) for trace in traces] == [1, 2, 0, 1]
    for row, ids, trace in zip(rows, together, traces, strict=True):
        ((alone,), (own,)) = generate(bench, SAME["fastv"], process(processor, row), pictures="images")
        assert ids[: len(alone)] == alone
        assert trace.mlp_tokens == own.mlp_tokens


def test_the_model_is_as_it_was(bench):  # noqa: F811
    model, processor = bench.reference.model, bench.mllm.writer.processor

    def state():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        return hooks, [id(m.config) for m in model.modules() if hasattr(m, "config")], sorted(vars(model))

    before = state()
    inputs = bench.reference.inputs(*parts_of(bench.clips[0]))
    generate(bench, SAME["fastv"], inputs)
    with pytest.raises(RuntimeError, match="mine"), tokenlab.compress(model, processor, SAME["fastv"]):
        raise RuntimeError("mine")
    broken = {**inputs, "input_ids": inputs["input_ids"][:, :-1], "attention_mask": inputs["attention_mask"][:, :-1]}
    with pytest.raises(Exception), tokenlab.compress(model, processor, SAME["fastv"]):  # noqa: B017, PT011
        model.generate(**broken, max_new_tokens=-1)
    assert state() == before


def test_what_cannot_be_is_refused_by_name(bench):  # noqa: F811
    model, processor = bench.reference.model, bench.mllm.writer.processor
    inputs = bench.reference.inputs(*parts_of(bench.clips[0]))
    for more, message in (
        ({"num_beams": 2}, "asks for num_beams=2"),
        ({"cache_implementation": "static"}, "a cache of this kind"),
        ({"assistant_model": model}, "asks for assistant_model"),
        ({"prompt_lookup_num_tokens": 3}, "assisted decoding"),
        ({"prefill_chunk_size": 8}, "chunked prefill"),
    ):
        with pytest.raises(UserError, match=message):
            generate(bench, Pipeline(), inputs, **more)
    right = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
    right["attention_mask"][:, -1] = 0
    with pytest.raises(UserError, match="padded on the left"):
        generate(bench, Pipeline(), right)
    fewer = {name: value for name, value in inputs.items() if not name.startswith("pixel_")}
    with pytest.raises(UserError, match="a placeholder for image 0, which is not there"):
        generate(bench, Pipeline(), fewer)
    with pytest.raises(UserError, match="give questions="):
        generate(bench, SAME["text, renumbered"], inputs)
    with pytest.raises(UserError, match="2 questions for 1 prompts"):
        generate(bench, SAME["text, renumbered"], inputs, ["a ?", "b ?"])
    with pytest.raises(UserError, match="chooses frames"):
        tokenlab.compress(model, processor, [REGISTRY["frame_stride"](retention_ratio=0.5)]).__enter__()
    with pytest.raises(UserError, match="by name"), tokenlab.compress(model, processor, Pipeline()):
        model.generate(inputs["input_ids"])


def test_pictures_are_never_guessed(bench):  # noqa: F811
    with pytest.raises(UserError, match="pictures='frame': it is 'images', 'frames' or left out"):
        _check_pictures(bench.mllm.family, "frame")
    rows = [[noise(1, 64, 64), "what is there ?"], [noise(2, 60, 110), "is like", noise(3, 64, 64), "?"]]
    processor = bench.mllm.writer.processor
    processor.tokenizer.padding_side = "left"
    inputs = process(processor, *rows)
    if not joined(bench):
        unasked, images = (generate(bench, SAME["fastv"], inputs, pictures=pictures) for pictures in (None, "images"))
        assert unasked[0] == images[0]
        assert [trace.mlp_tokens for trace in unasked[1]] == [trace.mlp_tokens for trace in images[1]]
        with pytest.raises(UserError, match=r"^compress: pictures='frames': in .* prompts images are no frames"):
            generate(bench, SAME["fastv"], inputs, pictures="frames")
        return
    with pytest.raises(UserError, match=r"^generate: prompt 1 has 2 pictures, .*'images'.* or pictures='frames'$"):
        generate(bench, SAME["fastv"], inputs)
    end = int((inputs["input_ids"][1] == bench.reference.image).nonzero().max())
    cut = {**inputs, **{name: inputs[name][1:, :end] for name in ("input_ids", "attention_mask")}}
    for pictures in ("images", "frames"):
        with pytest.raises(UserError, match="in prompt 0 are not of whole pictures"):
            generate(bench, SAME["fastv"], cut, pictures=pictures)
    fewer = {name: value[:1] if name.startswith("pixel_") else value for name, value in inputs.items()}
    with pytest.raises(UserError, match="prompt 1 has placeholders for a picture that is not there"):
        generate(bench, SAME["fastv"], fewer, pictures="images")


def test_the_example_in_the_readme_runs(bench, capsys):  # noqa: F811
    (example,) = [
        block for block in Path("README.md").read_text().split("```python\n") if "tokenlab.compress(" in block
    ]
    inputs = bench.reference.inputs(*parts_of(bench.clips[1]))  # text: nothing to lose
    shown = bench.reference.inputs(*parts_of(bench.clips[0]))
    names = {"model": bench.reference.model, "processor": bench.mllm.writer.processor}
    if bench.mllm.family.image.to_grid.__name__ == "mosaic":
        pytest.skip("VisionZip looks at whole grids, which images of any resolution are not")
    for given in (inputs, shown):
        exec(example.split("```")[0], {**names, "inputs": {**given, "max_new_tokens": 3}})
    counts = [line.split()[0::9] for line in capsys.readouterr().out.splitlines()]
    assert counts[0] == ["0", "0"]
    assert int(counts[1][1]) < 0.4 * int(counts[1][0])
