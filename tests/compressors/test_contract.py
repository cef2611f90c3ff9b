"""What every registered compressor promises: a new one is tested by existing."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenlab.compressors import REGISTRY, TokenCompressor
from tokenlab.compressors.base import STAGES, FrameSelection, FrameView, GridReduction, GridView, seeded_generator
from tokenlab.compressors.evidence import QuestionEmbeddings, TokenEmbeddings, TowerAttention
from tokenlab.functional import budget
from tokenlab.tensors import Reduction, VisualTokens

ON_GRID = sorted(name for name, method in REGISTRY.items() if issubclass(method, GridReduction))
ON_FRAMES = sorted(name for name, method in REGISTRY.items() if issubclass(method, FrameSelection))


def make_view(method: TokenCompressor, grid=(6, 4, 5), seed: int = 0, uid: str = "v0#0") -> GridView:
    """A view of random tokens, with whatever the method asks for."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*grid, 8, generator=generator)
    evidence = {}
    for need in sorted(method.needs(), key=repr):
        match need:
            case TowerAttention():
                evidence[need] = torch.rand(values[..., 0].numel(), generator=generator)
            case TokenEmbeddings():
                evidence[need] = values.flatten(0, 2)
            case QuestionEmbeddings():
                evidence[need] = torch.randn(5, 8, generator=generator)
    return GridView(VisualTokens.from_grid(values, evidence), "what ?", seeded_generator(0, method.name, uid))


def decide(name: str, ratio: float, **kwargs) -> tuple[GridView, Reduction]:
    method = REGISTRY[name](retention_ratio=ratio)
    view = make_view(method, **kwargs)
    return view, method.reduce_grid(view).check()


def test_some_are_registered():
    assert {"differential", "similarity", "topic", "text", "random", "frame_stride", "grid_stride", "pool"} <= set(
        REGISTRY
    )


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_is_final_frozen_and_documented(name):
    method = REGISTRY[name]
    assert name == name.lower() == method.name
    assert dataclasses.is_dataclass(method)
    assert method.__dataclass_params__.frozen
    assert not method.__subclasses__()
    assert any(issubclass(method, stage) for stage in STAGES)
    assert len(inspect.getdoc(method).splitlines()[0]) <= 120
    assert method.__module__ == f"tokenlab.compressors.{name}"


@pytest.mark.parametrize("name", sorted(REGISTRY))
@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.0001, float("nan"), float("inf")])
def test_impossible_budgets_are_refused(name, ratio):
    with pytest.raises(ValueError, match="retention_ratio"):
        REGISTRY[name](retention_ratio=ratio)


@pytest.mark.parametrize("name", ON_GRID)
@given(ratio=st.floats(0.02, 0.99), frames=st.integers(1, 7), rows=st.integers(1, 5), columns=st.integers(1, 5))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_respects_its_budget(name, ratio, frames, rows, columns):
    """Whole frames or tokens of a frame, rounded; at least one of whatever is the unit."""
    view, reduction = decide(name, ratio, grid=(frames, rows, columns))
    per_frame = rows * columns
    unit = per_frame if REGISTRY[name].leaves_full_grid else frames
    total = frames if REGISTRY[name].leaves_full_grid else per_frame
    assert reduction.num_outputs <= unit * budget(ratio, total)
    assert reduction.num_outputs >= 1
    assert reduction.num_inputs == view.tokens.num_tokens


@pytest.mark.parametrize("name", ON_GRID)
def test_same_twice_and_after_an_unrelated_sample(name):
    first = decide(name, 0.3)[1]
    decide(name, 0.6, seed=5, uid="other")
    again = decide(name, 0.3)[1]
    assert torch.equal(first.anchor, again.anchor)
    assert torch.equal(first.member, again.member)
    assert torch.equal(first.weight, again.weight)


@pytest.mark.parametrize("name", ON_GRID)
def test_whole_frames_where_promised(name):
    view, reduction = decide(name, 0.4)
    reduced = view.tokens.reduce(reduction)
    if REGISTRY[name].leaves_full_grid:
        reduced.as_frames()
    else:
        with pytest.raises(ValueError, match="ragged"):
            reduced.as_frames()


@pytest.mark.parametrize("name", ON_GRID)
def test_runs_in_bfloat16_and_leaves_its_input_alone(name):
    method = REGISTRY[name](retention_ratio=0.4)
    view = make_view(method)
    evidence = {key: value.bfloat16() for key, value in view.tokens.evidence.items()}
    tokens = dataclasses.replace(view.tokens, values=view.tokens.values.bfloat16(), evidence=evidence)
    before = tokens.values.clone()
    reduction = method.reduce_grid(dataclasses.replace(view, tokens=tokens)).check()
    assert tokens.reduce(reduction).values.dtype == torch.bfloat16
    assert torch.equal(tokens.values, before)


@pytest.mark.parametrize("name", ON_FRAMES)
@given(ratio=st.floats(0.02, 0.99), frames=st.integers(1, 40))
def test_frame_selection_prunes_in_time_order(name, ratio, frames):
    method = REGISTRY[name](retention_ratio=ratio)
    view = FrameView(frames, torch.arange(frames).double() / 4, "what ?", {}, seeded_generator(0, name, "u"))
    reduction = method.select_frames(view).check()
    assert not reduction.merges
    assert reduction.num_outputs == budget(ratio, frames)
    assert reduction.anchor.tolist() == sorted(reduction.anchor.tolist())


def test_noise_depends_on_seed_method_and_sample_only():
    def draw(*key):
        return torch.rand(4, generator=seeded_generator(*key)).tolist()

    assert draw(0, "random", "a") == draw(0, "random", "a")
    assert (
        len({tuple(draw(*key)) for key in [(0, "random", "a"), (1, "random", "a"), (0, "b", "a"), (0, "random", "c")]})
        == 4
    )


def test_no_model_is_named_in_compressors():
    """M + N, not M x N: methods know no model, and nobody else knows a method."""
    package = Path(inspect.getfile(TokenCompressor)).parent
    words = ("llava", "qwen", "internvl", "smolvlm", "__class__.__name__", "model_type")
    for file in package.glob("*.py"):
        assert not [word for word in words if word in file.read_text().lower()], file
    names = set(REGISTRY) - {"text"}  # also the word for a kind of content in chat templates
    for file in package.parent.rglob("*.py"):
        if package in file.parents or "shapes" in file.parts:
            continue
        text = file.read_text()
        assert not [name for name in names if f'"{name}"' in text or f"'{name}'" in text], file


@pytest.mark.parametrize("name", ["random", "frame_stride"])
def test_simple_methods_are_short(name):
    assert len(Path(inspect.getfile(REGISTRY[name])).read_text().splitlines()) <= 30
