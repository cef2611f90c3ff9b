"""What every registered compressor promises: a new one is tested by existing."""

import ast
import dataclasses
import inspect
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenlab.compressors import REGISTRY, TokenCompressor
from tokenlab.compressors.base import seeded_generator
from tokenlab.compressors.evidence import (
    FrameScores,
    LastAttention,
    QuestionEmbeddings,
    TokenEmbeddings,
    TowerAttention,
    TowerKeys,
)
from tokenlab.compressors.stages import (
    STAGES,
    BlockView,
    CacheReduction,
    CacheView,
    FrameSelection,
    FrameView,
    GridReduction,
    GridView,
    LayerReduction,
    LayerView,
    TowerReduction,
)
from tokenlab.functional import budget
from tokenlab.reduction import Reduction
from tokenlab.tokens import VisualTokens


def at(stage: type[TokenCompressor]) -> list[str]:
    return sorted(name for name, method in REGISTRY.items() if issubclass(method, stage))


ON_FRAMES, IN_TOWER, ON_GRID = at(FrameSelection), at(TowerReduction), at(GridReduction)
IN_LAYERS, IN_CACHE = at(LayerReduction), at(CacheReduction)


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
            case TowerKeys():
                evidence[need] = torch.randn(values[..., 0].numel(), 6, generator=generator)
            case QuestionEmbeddings():
                evidence[need] = torch.randn(5, 8, generator=generator)
    return GridView(VisualTokens.from_grid(values, evidence), "what ?", seeded_generator(0, method.name, uid))


def build(name: str, ratio: float) -> TokenCompressor:
    """A method at a ratio, or at the lowest it can reach."""
    return REGISTRY[name](retention_ratio=max(ratio, REGISTRY[name].lowest_ratio))


def decide(name: str, ratio: float, **kwargs) -> tuple[GridView, Reduction]:
    method = build(name, ratio)
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
    assert method.__module__ == f"tokenlab.compressors.methods.{name}"


@pytest.mark.parametrize("name", sorted(REGISTRY))
@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.0001, float("nan"), float("inf")])
def test_impossible_budgets_are_refused(name, ratio):
    with pytest.raises(ValueError, match="retention_ratio"):
        REGISTRY[name](retention_ratio=ratio)


@pytest.mark.parametrize("name", ON_GRID)
@given(ratio=st.floats(0.02, 0.99), frames=st.integers(1, 7), rows=st.integers(1, 5), columns=st.integers(1, 5))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_respects_its_budget(name, ratio, frames, rows, columns):
    """Whole frames or tokens of a frame, rounded; at least one of whatever is the unit, and what must stay whole."""
    ratio = max(ratio, REGISTRY[name].lowest_ratio)
    view, reduction = decide(name, ratio, grid=(frames, rows, columns))
    per_frame = rows * columns
    unit = per_frame if REGISTRY[name].leaves_full_grid else frames
    total = frames if REGISTRY[name].leaves_full_grid else per_frame
    whole = math.ceil(REGISTRY[name].lowest_ratio * frames) * per_frame
    assert 1 <= reduction.num_outputs <= max(whole, unit * budget(ratio, total))
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
    method = build(name, 0.4)
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
    evidence = {need: torch.rand(frames) for need in method.needs() if isinstance(need, FrameScores)}
    view = FrameView(frames, torch.arange(frames).double() / 4, "what ?", evidence, seeded_generator(0, name, "u"))
    reduction = method.select_frames(view).check()
    assert not reduction.merges
    assert reduction.num_outputs == budget(ratio, frames)
    assert reduction.anchor.tolist() == sorted(reduction.anchor.tolist())


def through_tower(method, frames=3, patches=20, protected=1, num_layers=8, dtype=torch.float32) -> list[Reduction]:
    """The reductions of all blocks, each seeing what the one before left, the tokens' sizes included."""
    noise = torch.Generator().manual_seed(0)
    size, state, done = torch.ones(frames, protected + patches), None, []
    for layer in range(num_layers):
        keys = torch.randn(*size.shape, 2, 4, generator=noise).to(dtype)
        view = BlockView(
            layer,
            num_layers,
            torch.randn(*size.shape, 8, generator=noise).to(dtype),
            keys,
            size.to(dtype),
            protected + patches,
            protected,
            seeded_generator(0, method.name, f"u/{layer}"),
        )
        before = keys.clone()
        reduction, state = method.reduce_block(view, state)
        assert torch.equal(keys, before)
        done.append(reduction.check())
        size = reduction.apply(size.flatten(), "sum").reshape(frames, -1)
    return done


@pytest.mark.parametrize("name", IN_TOWER)
@given(ratio=st.floats(0.02, 0.99), patches=st.integers(1, 40), protected=st.integers(0, 3))
def test_tower_leaves_its_budget_in_every_frame(name, ratio, patches, protected):
    """Protected tokens lead every frame, untouched, and no patch is lost but to its own frame."""
    reductions = through_tower(REGISTRY[name](retention_ratio=ratio), 3, patches, protected)
    tokens = protected + patches
    for reduction in reductions:
        assert reduction.num_inputs == 3 * tokens
        left = reduction.num_outputs // 3
        frame = torch.arange(3).repeat_interleave(left)
        assert torch.equal(reduction.anchor // tokens, frame)
        slots = torch.arange(reduction.num_outputs).repeat_interleave(reduction.lengths)
        assert torch.equal(reduction.member // tokens, frame[slots])
        leading = torch.arange(3)[:, None] * left + torch.arange(protected)
        assert torch.equal(reduction.anchor[leading] % tokens, torch.arange(protected).expand(3, -1))
        assert not reduction.lengths[leading].any()
        tokens = left
    assert 1 <= tokens - protected <= budget(ratio, patches)


def through_layers(method, grid=(4, 3, 4), num_layers=6, dtype=torch.float32) -> list[tuple[LayerView, Reduction]]:
    """One medium between texts, read by an LLM whose layers do nothing."""
    noise = torch.Generator().manual_seed(0)
    before, after, initial = 5, 6, math.prod(grid)
    places = torch.cartesian_prod(*(torch.arange(size) for size in grid)).reshape(-1, 3)
    values = torch.randn(initial, 8, generator=noise).to(dtype)
    state, tag, done = None, None, []
    for layer, moment in method.points(num_layers):
        length = before + places.shape[0] + after
        text = torch.randn(before + after, 8, generator=noise).to(dtype)
        scores = torch.rand(length, generator=noise).to(dtype)
        view = LayerView(
            layer=layer,
            num_layers=num_layers,
            moment=moment,
            hidden=torch.cat([text[:before], values, text[before:]]),
            visual=torch.arange(before, length - after),
            places=places,
            tag=tag,
            initial=initial,
            text_after=(length - after, length),
            evidence={need: scores for need in method.needs() if isinstance(need, LastAttention)},
            generator=seeded_generator(0, method.name, f"u/{layer}"),
        )
        hidden = view.hidden.clone()
        reduction, state = method.reduce_layer(view, state)
        assert torch.equal(view.hidden, hidden)
        assert reduction.check().num_inputs == places.shape[0]
        done.append((view, reduction))
        values, places = reduction.apply(values), places[reduction.anchor]
        tag = reduction.tag if reduction.tag is not None else None if tag is None else tag[reduction.anchor]
    return done


@pytest.mark.parametrize("name", IN_LAYERS)
@given(ratio=st.floats(0.02, 0.99), frames=st.integers(1, 5), side=st.integers(1, 4), num_layers=st.integers(2, 9))
def test_layers_leave_their_budget_after_the_last_cut(name, ratio, frames, side, num_layers):
    method = build(name, ratio)
    points = list(method.points(num_layers))
    moments = ["before_attention", "after_attention"]
    assert points == sorted(set(points), key=lambda point: (point[0], moments.index(point[1])))
    assert all(0 <= layer < num_layers and moment in moments for layer, moment in points)
    views = through_layers(method, (frames, side, side), num_layers)
    assert 1 <= views[-1][1].num_outputs <= budget(method.retention_ratio, frames * side * side)


def cached_steps(method, dtype=torch.float32) -> list[tuple[Reduction, ...]]:
    """Five decode steps over 30 visual tokens of a growing cache."""
    noise = torch.Generator().manual_seed(0)
    layers, state, done = method.cache_layers(6), None, []
    assert list(layers) == sorted(set(layers))
    assert all(0 <= layer < 6 for layer in layers)
    for step in range(1, 6):
        for layer in layers:
            scores = torch.rand(40 + step, generator=noise).to(dtype)
            evidence = {need: scores for need in method.needs() if isinstance(need, LastAttention)}
            view = CacheView(layer, 6, step, torch.arange(4, 34), evidence, seeded_generator(0, method.name, "u"))
            reduction, state = method.reduce_cache(view, state)
            assert reduction.check().num_inputs == 30
            assert not reduction.merges
            assert reduction.anchor.tolist() == sorted(reduction.anchor.tolist())
            done.append(reduction)
    return done


@pytest.mark.parametrize("name", IN_CACHE)
def test_a_step_sees_fewer_of_the_cached_tokens(name):
    assert min(reduction.num_outputs for reduction in cached_steps(build(name, 0.3))) < 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "run"),
    [
        *((name, through_tower) for name in IN_TOWER),
        *((name, lambda *args, **kwargs: [pair[1] for pair in through_layers(*args, **kwargs)]) for name in IN_LAYERS),
        *((name, cached_steps) for name in IN_CACHE),
    ],
)
def test_a_method_holds_no_state(name, run, dtype):
    """The same request twice, in the same precision, is reduced in the same way."""
    method = build(name, 0.3)
    for first, again in zip(run(method, dtype=dtype), run(method, dtype=dtype), strict=True):
        assert torch.equal(first.anchor, again.anchor)
        assert torch.equal(first.member, again.member)
        assert torch.equal(first.weight, again.weight)


def test_noise_depends_on_seed_method_and_sample_only():
    def draw(*key):
        return torch.rand(4, generator=seeded_generator(*key)).tolist()

    assert draw(0, "random", "a") == draw(0, "random", "a")
    assert (
        len({tuple(draw(*key)) for key in [(0, "random", "a"), (1, "random", "a"), (0, "b", "a"), (0, "random", "c")]})
        == 4
    )


PACKAGE = Path(inspect.getfile(TokenCompressor)).parents[1]


def code(file: Path) -> str:
    """A file without comments and docstrings: papers name models, code does not."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@pytest.mark.parametrize("file", sorted((PACKAGE / "compressors").rglob("*.py")), ids=lambda file: file.stem)
def test_no_model_is_named_in_compressors(file):
    """M + N, not M x N: methods know no model."""
    words = ("llava", "qwen", "internvl", "smolvlm", "__class__.__name__", "model_type")
    assert not [word for word in words if word in code(file).lower()]


def test_nobody_knows_a_method():
    """Methods are found in the registry; no other file imports one."""
    for file in PACKAGE.rglob("*.py"):
        imported = re.findall(r"tokenlab\.compressors\.methods\.(\w+)", code(file))
        assert not imported, (file, imported)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_authors_write_one_import_line(name):
    """From tokenlab; torch, typing and dataclasses apart."""
    tree = ast.parse(Path(inspect.getfile(REGISTRY[name])).read_text())
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [module for module in modules if module.startswith("tokenlab")] == ["tokenlab.compressors"]


@pytest.mark.parametrize("name", ["random", "frame_stride"])
def test_simple_methods_are_short(name):
    assert len(Path(inspect.getfile(REGISTRY[name])).read_text().splitlines()) <= 30
