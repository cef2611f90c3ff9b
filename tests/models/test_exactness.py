"""What the project stands on: answers equal those of the untouched model, and of a reference that edits by hand."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.checkpoints import ANSWER_TOKENS
from tests.models.reference import Reference
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.compressors.base import CacheReduction, GridReduction, GridView, LayerReduction, TowerReduction
from tokenlab.compressors.evidence import LastAttention
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.models.families import FAMILIES as FACTS
from tokenlab.models.frozen import Encodings, FrozenMLLM
from tokenlab.models.requests import Answer
from tokenlab.models.settings import MLLM
from tokenlab.tensors import Reduction

FAMILIES = tuple(name for name, family in FACTS.items() if family.video is not None)
WHOLE = ("llava", "llava_onevision", "qwen3_vl")
"""Families on which every pipeline is tried: one a way of reading; on the others the telling ones."""
TELLING = (
    "visionzip",
    "joint",
    "joint other",
    "frames then grid",
    "merge, pool, prune",
    "similarity other positions",
    "fastv other positions",
    "framefusion",
    "grid, layers, cache",
    "tome",
    "tower, then grid",
)
QUESTIONS = ("what colour is the circle ?", "how many objects are there at the end ?")


@dataclass(frozen=True, kw_only=True)
class KeepAll(GridReduction):
    """Keeps every token, but through the full gather path."""

    name: ClassVar[str] = "keep_all"
    leaves_full_grid: ClassVar[bool] = True
    has_native_budget: ClassVar[bool] = True
    retention_ratio: float | None = None

    def reduce_grid(self, view: GridView) -> Reduction:
        return Reduction.identity(view.tokens.num_tokens)


@dataclass(frozen=True, kw_only=True)
class KeepAllInside(LayerReduction, CacheReduction):
    """Keeps every token at every point of the LLM and in every step, through the full path, attention rows included."""

    name: ClassVar[str] = "keep_all_inside"
    has_native_budget: ClassVar[bool] = True
    retention_ratio: float | None = None

    def needs(self):
        return frozenset({LastAttention()})

    def points(self, num_layers):
        return [(layer, moment) for layer in range(num_layers) for moment in ("before_attention", "after_attention")]

    def reduce_layer(self, view, state):
        assert (LastAttention() in view.evidence) == ((view.layer, view.moment) != (0, "before_attention"))
        return Reduction.identity(view.visual.shape[0]), state

    def cache_layers(self, num_layers):
        return range(num_layers)

    def reduce_cache(self, view, state):
        return Reduction.identity(view.visual.shape[0]), state


@dataclass(frozen=True, kw_only=True)
class KeepAllInTower(TowerReduction):
    """Keeps every token in every block of the tower, through the full path."""

    name: ClassVar[str] = "keep_all_in_tower"
    has_native_budget: ClassVar[bool] = True
    retention_ratio: float | None = None
    proportional_attention: ClassVar[bool] = True

    def reduce_block(self, view, state):
        return Reduction.identity(view.size.numel()), state


KEEPING = {
    "tower": Pipeline((KeepAllInTower(),)),
    "tower, renumbered": Pipeline((KeepAllInTower(positions="renumber"),)),
    "grid": Pipeline((KeepAll(),)),
    "grid, renumbered": Pipeline((KeepAll(positions="renumber"),)),
    "layers and cache": Pipeline((KeepAllInside(),)),
    "layers and cache, renumbered": Pipeline((KeepAllInside(positions="renumber"),)),
}


def make_clips() -> list[Clip]:
    """Clips of different lengths, with frames that resemble one another in runs."""
    rng = np.random.default_rng(7)
    clips = []
    for index, num_frames in enumerate((6, 1, 4)):
        scenes = rng.integers(0, 256, (num_frames // 2 + 1, 64, 64, 3))
        noise = rng.integers(-20, 20, (num_frames, 64, 64, 3))
        pixels = np.clip(scenes[np.arange(num_frames) // 2] + noise, 0, 255).astype(np.uint8)
        frames = Frames(pixels, tuple(range(0, 2 * num_frames, 2)), np.arange(num_frames) / 2)
        samples = tuple(Sample(f"v{index}#{k}", f"v{index}", question) for k, question in enumerate(QUESTIONS))
        clips.append(Clip(f"v{index}", samples, (frames,)))
    return clips


DRIVEN = sorted(name for name, method in REGISTRY.items() if not FACTS["llava"].refusal(method(retention_ratio=0.4)))
"""The methods that the model side can run without further encoders."""

PIPELINES = {
    **{name: ((name, {"retention_ratio": 0.4}),) for name in DRIVEN},
    **{
        f"{name} other positions": ((name, {"retention_ratio": 0.4, "positions": positions}),)
        for name, positions in (
            ("similarity", "keep"),
            ("topic", "renumber"),
            ("random", "renumber"),
            ("pool", "renumber"),
            ("fastv", "renumber"),
        )
    },
    "tome other positions": (("tome", {"retention_ratio": 0.4, "positions": "renumber"}),),
    "tome, authors' budget": (("tome", {"r": 9, "inflect": -0.5}),),
    "tower, then grid": (("tome", {"retention_ratio": 0.6}), ("topic", {"retention_ratio": 0.5})),
    "tower, grid, layers": (
        ("tome", {"retention_ratio": 0.8}),
        ("text", {"retention_ratio": 0.7, "positions": "renumber"}),
        ("fastv", {"retention_ratio": 0.5}),
    ),
    "frames, tower": (("frame_stride", {"retention_ratio": 0.5}), ("tome", {"retention_ratio": 0.5})),
    "framefusion, authors' budget": (("framefusion", {"cost": 0.3, "separators": "follow"}),),
    "two in the layers": (("framefusion", {"retention_ratio": 0.6}), ("fastv", {"retention_ratio": 0.3})),
    "grid, layers, cache": (
        ("similarity", {"retention_ratio": 0.6}),
        ("fastv", {"retention_ratio": 0.7}),
        ("half_sight", {"retention_ratio": 0.5}),
    ),
    "similarity separators kept": (("similarity", {"retention_ratio": 0.4, "separators": "keep"}),),
    "joint": (("similarity", {"retention_ratio": 0.5}), ("text", {"retention_ratio": 0.4})),
    "joint other": (("differential", {"retention_ratio": 0.5}), ("topic", {"retention_ratio": 0.3})),
    "frames then grid": (("frame_stride", {"retention_ratio": 0.5}), ("random", {"retention_ratio": 0.4})),
    "merge twice": (("differential", {"retention_ratio": 0.6}), ("similarity", {"retention_ratio": 0.5})),
    "merge, pool, prune": (
        ("similarity", {"retention_ratio": 0.6}),
        ("pool", {"retention_ratio": 0.5}),
        ("random", {"retention_ratio": 0.2}),
    ),
}


@dataclass(frozen=True, kw_only=True)
class HalfSight(CacheReduction):
    """Every second visual token, others in every other step, from the second layer on."""

    name: ClassVar[str] = "half_sight"

    def cache_layers(self, num_layers):
        return [1]

    def reduce_cache(self, view, state):
        tokens = view.visual.shape[0]
        return Reduction.keep(torch.arange(view.step % 2 if tokens > 1 else 0, tokens, 2), tokens), state


def build(steps) -> Pipeline:
    known = {**REGISTRY, HalfSight.name: HalfSight}
    return Pipeline(tuple(known[name](**arguments) for name, arguments in steps))


@dataclass
class Bench:
    mllm: FrozenMLLM
    reference: Reference
    clips: list[Clip]

    def ask(self, pipeline: Pipeline, clips=None, batch_size: int = 1) -> dict[str, tuple[int, ...]]:
        return {answer.sample.uid: answer.ids for answer in self.answers(pipeline, clips, batch_size)}

    def answers(self, pipeline: Pipeline, clips=None, batch_size: int = 1) -> list[Answer]:
        object.__setattr__(self.mllm.settings, "batch_size", batch_size)
        return list(self.mllm.answer(clips or self.clips, pipeline, Encodings(self.mllm, pipeline.needs())))


@pytest.fixture(scope="module", params=FAMILIES)
def bench(request, checkpoints) -> Bench:
    folder = str(checkpoints[request.param])
    mllm = FrozenMLLM(MLLM(checkpoint=folder, max_new_tokens=ANSWER_TOKENS))
    mllm.load()
    return Bench(mllm, Reference(folder), make_clips())


def possible(bench: Bench, pipelines: dict[str, Pipeline]) -> dict[str, Pipeline]:
    """Those that the family can have."""
    family = bench.mllm.family
    return {
        name: pipeline
        for name, pipeline in pipelines.items()
        if not any(family.refusal(compressor) for compressor in pipeline.compressors)
    }


def samples(bench: Bench):
    return [(clip.media[0], sample) for clip in bench.clips for sample in clip.samples]


@pytest.fixture(scope="module")
def untouched(bench: Bench) -> dict[str, tuple[int, ...]]:
    """Plain transformers, prompt by prompt."""
    return {
        sample.uid: tuple(bench.reference.plain([frames, sample.question], ANSWER_TOKENS))
        for frames, sample in samples(bench)
    }


def test_full_is_plain_generate(bench, untouched):
    assert bench.ask(Pipeline()) == untouched


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", KEEPING)
def test_keep_all_through_the_full_path(bench, untouched, name, batch_size):
    if name not in possible(bench, KEEPING):
        pytest.skip("this family cannot have it")
    assert bench.ask(KEEPING[name], batch_size=batch_size) == untouched


@pytest.mark.parametrize("name", DRIVEN)
def test_retention_one_is_the_untouched_model(bench, untouched, name):
    assert bench.ask(Pipeline((REGISTRY[name](retention_ratio=1.0),))) == untouched


def test_keep_all_gives_bit_identical_logits(bench):
    """At batch 1, every step's logits, through the gather path against the plain model."""
    clip = bench.clips[0]
    encodings = Encodings(bench.mllm, frozenset())
    for pipeline in possible(bench, KEEPING).values():
        request = bench.mllm.reduce(clip, clip.samples[0], pipeline, encodings)
        assert request.rewrite is not None
        logits = []
        handle = bench.mllm.model.lm_head.register_forward_hook(
            lambda _, __, output, logits=logits: logits.append(output)
        )
        bench.mllm.generate([request])
        handle.remove()
        inputs = bench.reference.inputs(*clip.media, clip.samples[0].question)
        plain = bench.reference.model.generate(
            **inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True
        ).logits
        assert len(plain) == len(logits)
        for ours, theirs in zip(logits, plain, strict=True):
            assert torch.equal(ours[:, -1], theirs)


@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_reduced_equals_the_reference(bench, untouched, name):
    if bench.reference.kind not in WHOLE and name not in TELLING:
        pytest.skip("tried on families that read alike")
    pipeline = build(PIPELINES[name])
    if not possible(bench, {name: pipeline}):
        pytest.skip("this family cannot have it")
    expected = {
        sample.uid: tuple(bench.reference.reduced([frames, sample.question], sample, pipeline, ANSWER_TOKENS))
        for frames, sample in samples(bench)
    }
    assert bench.ask(pipeline) == expected
    assert bench.ask(pipeline, batch_size=4) == expected
    assert bench.ask(pipeline, clips=bench.clips[::-1], batch_size=9) == expected


def test_answers_do_change_when_tokens_go(bench, untouched):
    """Otherwise the tests above would prove nothing."""
    pipelines = possible(bench, {name: build(steps) for name, steps in PIPELINES.items()})
    changed = {name: bench.ask(pipeline) != untouched for name, pipeline in pipelines.items()}
    assert all(changed.values()), changed


def test_no_hook_stays_behind(bench):
    def hooks(module):
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()]

    before, configs = (
        hooks(bench.mllm.model),
        [id(m.config) for m in bench.mllm.model.modules() if hasattr(m, "config")],
    )
    bench.ask(build(PIPELINES["joint other"]))
    clip = bench.clips[0]
    names = ("topic", "two in the layers", "grid, layers, cache", "tower, then grid")
    for pipeline in possible(bench, {name: build(PIPELINES[name]) for name in names}).values():
        request = bench.mllm.reduce(clip, clip.samples[0], pipeline, Encodings(bench.mllm, pipeline.needs()))
        broken = replace(request, prompt=replace(request.prompt, ids=request.prompt.ids[:-20]))
        with pytest.raises((ValueError, RuntimeError)):
            bench.mllm.generate([broken])
    assert hooks(bench.mllm.model) == before
    assert [id(m.config) for m in bench.mllm.model.modules() if hasattr(m, "config")] == configs
