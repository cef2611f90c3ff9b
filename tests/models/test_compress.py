"""The context manager on a model of one's own: the bench's answers, from the processor's output alone."""

from pathlib import Path

import pytest
import torch

import tokenlab
from tests.checkpoints import ANSWER_TOKENS
from tests.checkpoints.ask import noise, process
from tests.models.test_exactness import KEEPING, PIPELINES, build, possible
from tests.models.test_media import LOOKS, Bench, bench, parts_of, untouched  # noqa: F401
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.errors import UserError

README = Path(__file__).parents[2] / "README.md"

SAME = {
    "text, renumbered": LOOKS["text, renumbered"],
    **{name: build(PIPELINES[name]) for name in ("fastv", "framefusion", "tome", "topic")},
    "grid, layers, cache": Pipeline(
        (REGISTRY["text"](retention_ratio=0.6), *build(PIPELINES["grid, layers, cache"]).compressors[1:])
    ),
}
"""Pipelines without noise, which would follow the sample's name."""


def generate(bench: Bench, pipeline, inputs, questions=(), **more):  # noqa: F811
    model = bench.reference.model
    with tokenlab.compress(model, bench.mllm.writer.processor, pipeline, questions=questions) as traces:
        output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, **more)
    return output[:, inputs["input_ids"].shape[1] :].tolist(), traces


def joined(bench: Bench) -> bool:  # noqa: F811
    video = bench.mllm.family.video
    return video is not None and video.encoder == "image"


def same_media(bench: Bench):  # noqa: F811
    """Clips that are read alike: where pictures are joined, those of one medium or none."""
    return [clip for clip in bench.clips if not joined(bench) or len(clip.media) < 2]


@pytest.mark.parametrize("name", KEEPING)
def test_keeping_all_is_plain_generate(bench, untouched, name):  # noqa: F811
    if name not in possible(bench, KEEPING):
        pytest.skip("this family cannot have it")
    for clip in bench.clips:
        ((ids,), (trace,)) = generate(bench, KEEPING[name], bench.reference.inputs(*parts_of(clip)))
        assert tuple(ids) == untouched[clip.samples[0].uid]
        assert trace.visual_tokens_out == trace.visual_tokens_in
        assert trace.generated_tokens == len(ids)


@pytest.mark.parametrize("name", SAME)
def test_answers_and_counts_are_the_benchs(bench, untouched, name):  # noqa: F811
    if name not in possible(bench, SAME):
        pytest.skip("this family cannot have it")
    clips = same_media(bench)
    if name == "topic":  # which reads the tower, and whole grids
        clips = [clip for clip in clips if not any(frames.still for frames in clip.media)]
    answers = {a.sample.uid: a for a in bench.answers(SAME[name], clips)}
    for clip in clips:
        expected, question = answers[clip.samples[0].uid], clip.samples[0].question
        ((ids,), (trace,)) = generate(bench, SAME[name], bench.reference.inputs(*parts_of(clip)), [question])
        assert tuple(ids) == expected.ids
        assert (trace.visual_tokens_in, trace.visual_tokens_out) == (
            expected.trace.visual_tokens_in,
            expected.trace.visual_tokens_out,
        )
        assert (trace.passes, trace.mlp_tokens, trace.decode_sight) == (
            expected.trace.passes,
            expected.trace.mlp_tokens,
            expected.trace.decode_sight,
        )


def test_batches_change_no_answer(bench):  # noqa: F811
    rows = [[noise(1, 60, 110), "what is there ?"], ["is", noise(2, 64, 64), "it ?"], [noise(3, 64, 64), "how many ?"]]
    processor = bench.mllm.writer.processor
    processor.tokenizer.padding_side = "left"
    together, traces = generate(bench, SAME["fastv"], process(processor, *rows))
    for row, ids, trace in zip(rows, together, traces, strict=True):
        ((alone,), (own,)) = generate(bench, SAME["fastv"], process(processor, row))
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
