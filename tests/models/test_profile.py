"""Prices of real-size models without weights: against published counts, and against the methods' own rounding."""

import json
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from tests.models.conftest import by_tier
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.compressors.stages import CacheReduction, GridReduction, LayerReduction
from tokenlab.errors import UserError
from tokenlab.models.costs.configs import SHIPPED
from tokenlab.models.costs.dry_run import SYNTHETIC_MEDIA, QueryShape, dry_run
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.costs.profile import BYTES, Query, profile, read_config
from tokenlab.models.costs.vision import ReducibleTower, vision_cost_model
from tokenlab.models.families import family_of
from tokenlab.reduction import Reduction

NAME = "llava-1.5-7b"
PARAMETERS = {
    "llava-1.5-7b": 7.06e9,
    "llava-onevision-0.5b": 0.894e9,
    "llava-onevision-7b": 8.03e9,
    "qwen2.5-vl-7b": 8.29e9,
    "qwen3-vl-8b": 8.77e9,
}


@cache
def costs_of(name):
    return ModelCosts(read_config(name))


def priced(name, query, dtype="bfloat16", **methods):
    return profile(costs_of(name), {arm: Pipeline((method,)) for arm, method in methods.items()}, query, dtype)


def arms(name, query, **methods):
    return {row.arm: row for row in priced(name, query, **methods).arms}


def in_tera(flops, digits):
    return f"{flops / 1e12:.{digits}f}"


@pytest.mark.parametrize("name", by_tier(SHIPPED, daily=(NAME,)))
def test_every_shipped_config_has_the_real_models_size(name):
    costs = costs_of(name)
    assert sum(costs.parameters.values()) == pytest.approx(PARAMETERS[name], rel=1e-3)
    assert all(size > 0 for size in costs.parameters.values())
    assert costs.tower(3, (8, 8)) == 3 * costs.tower(1, (8, 8)) > 0
    assert costs.projector(1, (8, 8)) > 0
    assert costs.prefill(640) > costs.prefill(320) > 0


def test_shipped_names_are_those_that_are_known():
    assert set(SHIPPED) == set(PARAMETERS)


def test_llava_costs_what_was_measured():
    topic = REGISTRY["topic"]
    rows = arms(
        "llava-1.5-7b",
        Query(),
        third=topic(retention_ratio=1 / 3),
        ninth=topic(retention_ratio=1 / 9),
        fastv=REGISTRY["fastv"](retention_ratio=0.5),
    )
    assert [row.visual_tokens for row in rows.values()] == [576, 192, 64, 576]
    assert [in_tera(row.prefill_flops, 4) for row in rows.values()] == ["8.5043", "3.3503", "1.6667", "4.8668"]
    assert in_tera(rows["full"].tower_flops + rows["full"].projector_flops, 4) == "0.4061"
    # FastV's own formula says 57.1 %
    assert rows["fastv"].literature_flops / rows["full"].literature_flops == pytest.approx(0.571, abs=5e-4)
    assert (rows["fastv"].visual_tokens_left, rows["fastv"].prefill_tokens_mean) == (288, (2 * 640 + 30 * 352) / 32)


def test_onevision_costs_what_was_measured():
    costs = costs_of("llava-onevision-7b")
    assert in_tera(costs.tower(32) + costs.projector(32), 3) == "21.330"
    lengths = (6337, 1632, 691)
    # the published counts are the decoder's alone; ours go as far as the next token
    assert [in_tera(costs.prefill(n) - costs.head, 3) for n in lengths] == ["98.821", "22.368", "9.210"]
    assert costs.head == 2 * 152_128 * 3584


def test_windows_and_full_attention_of_qwen_by_hand():
    """Every patch of a 32 x 32 grid reads its 8 x 8 window in 28 blocks and the whole frame in 4."""
    costs = costs_of("qwen2.5-vl-7b")
    n, d, m = 1024, 1280, 3420
    linear = 2 * n * (4 * d * d + 3 * d * m)
    attention = 4 * n * d * (28 * 64 + 4 * n)
    patches = 2 * n * 3 * 2 * 14 * 14 * d
    assert costs.tower(1, (16, 16)) == 32 * linear + attention + patches
    assert costs.projector(1, (16, 16)) == 2 * (n // 4) * (4 * d) * (4 * d + 3584)


def test_cache_and_weights_in_bytes():
    row = arms("llava-1.5-7b", Query(new_tokens=5))["full"]
    assert row.cache_bytes == 32 * 2 * 4096 * (640 + 4) * BYTES["bfloat16"]
    grouped = arms("qwen3-vl-8b", Query(frames=2))["full"]
    assert grouped.cache_bytes == 36 * 2 * 8 * 128 * grouped.prefill_tokens * BYTES["bfloat16"]
    half, whole = (priced("llava-1.5-7b", Query(), dtype).weight_bytes for dtype in ("float16", "float32"))
    assert {part: 2 * size for part, size in half.items()} == whole


def test_frames_and_resolution():
    assert arms("llava-1.5-7b", Query(resolution=(1000, 50)))["full"].visual_tokens == 576
    assert arms("llava-onevision-7b", Query(frames=32))["full"].visual_tokens == 32 * 196 + 1
    image = arms("llava-onevision-7b", Query())["full"]  # the image, and itself as the one tile of its mosaic
    assert image.visual_tokens == 27 * 27 + 27 * 28
    layout = costs_of("qwen2.5-vl-7b").vision.shape(5, (360, 640))
    assert (layout.grid, layout.resolution, layout.passes) == ((3, 13, 23), (364, 644), 3)


def test_fewer_frames_cost_less_in_the_tower():
    rows = arms("llava-onevision-7b", Query(frames=8), few=REGISTRY["frame_stride"](retention_ratio=0.25))
    assert rows["few"].tower_flops * 4 == rows["full"].tower_flops
    assert rows["few"].visual_tokens == 2 * 196 + 1


def query_shape(**changes):
    config = read_config("shapes")
    medium = vision_cost_model(config, family_of(config)).shape
    tower = ReducibleTower(depth=4, read=3, protected=1)
    return replace(
        QueryShape(medium, frames=8, size=(64, 64), text=10, new_tokens=3, num_layers=4, tower=tower), **changes
    )


@dataclass(frozen=True, kw_only=True)
class Toy:
    """What all toys share: half of the tokens."""

    name = "toy"
    retention_ratio: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Loud(Toy, GridReduction):
    """A budget that follows from the video."""

    def reduce_grid(self, view):
        values = view.tokens.values
        repeats = (values == values[view.tokens.frame == 0].repeat(8, 1)).all(dim=1)
        repeats[0] = False
        return Reduction.keep((~repeats).nonzero().flatten(), view.tokens.num_tokens)


@dataclass(frozen=True, kw_only=True)
class Twice(Toy, LayerReduction):
    """Halves the medium before layer 1 and behind the attention of layer 2."""

    def points(self, num_layers):
        return [(1, "before_attention"), (2, "after_attention")]

    def reduce_layer(self, view, state):
        assert view.hidden.shape[0] == view.visual.shape[0] + 10
        assert view.text_after[1] == view.hidden.shape[0]
        assert state == (None if view.layer == 1 else 1)
        return Reduction.keep(torch.arange(view.visual.shape[0] // 2), view.visual.shape[0]), view.layer


@dataclass(frozen=True, kw_only=True)
class Blink(Toy, CacheReduction):
    """Sees half of the cached visual tokens from layer 2 on."""

    def cache_layers(self, num_layers):
        return [2]

    def reduce_cache(self, view, state):
        return Reduction.keep(torch.arange(view.visual.shape[0] // 2), view.visual.shape[0]), state


def test_lengths_of_every_layer():
    n = 8 * 64
    counts = dry_run(Pipeline((Twice(),)), query_shape())
    assert counts.attention == (n + 10, n // 2 + 10, n // 2 + 10, n // 4 + 10)
    assert counts.mlp == (n + 10, n // 2 + 10, n // 4 + 10, n // 4 + 10)
    assert (counts.visual, counts.visual_left) == (n, n // 4)
    assert counts.visible == tuple(tuple(length + step for length in counts.attention) for step in (0, 1))


def test_a_step_of_the_answer_looks_at_less():
    n = 8 * 64
    counts = dry_run(Pipeline((Blink(),)), query_shape())
    assert counts.attention == (n + 10,) * 4
    assert counts.visible[1] == (n + 11, n + 11, n // 2 + 11, n // 2 + 11)


def test_what_depends_on_the_video_is_no_number():
    counts = dry_run(Pipeline((Loud(),)), query_shape())
    assert (counts.visual, counts.attention, counts.visible) == (None, None, None)
    assert counts.passes == 8
    rows = arms(
        "llava-onevision-7b",
        Query(frames=8, new_tokens=4),
        native=REGISTRY["framefusion"](),
        dycoke=REGISTRY["dycoke"](),
    )
    assert (rows["native"].prefill_flops, rows["native"].total_flops, rows["native"].cache_bytes) == (None, None, None)
    assert rows["native"].visual_tokens == rows["full"].visual_tokens
    assert rows["dycoke"].decode_flops is None
    assert rows["dycoke"].prefill_flops < rows["full"].prefill_flops


@pytest.mark.parametrize("name", sorted(name for name, method in REGISTRY.items() if method.stage != "pixels"))
def test_every_method_runs_dry(name):
    """On the embedded model's size, with the budget kept."""
    counts = dry_run(Pipeline((REGISTRY[name].example(),)), query_shape())
    assert counts.visual_left is None or counts.visual_left <= 8 * 64 * 0.6


@pytest.mark.slow
def test_smaller_pictures_are_cheaper_from_the_tower_on():
    """What is left of the larger picture costs what the smaller one does; where no size is fewer tokens, it is said."""
    native = REGISTRY["native"](retention_ratio=0.25)
    rows = arms("qwen2.5-vl-7b", Query(frames=8, resolution=(448, 672)), native=native)
    smaller = arms("qwen2.5-vl-7b", Query(frames=8, resolution=(224, 336)))
    assert rows["full"].visual_tokens == 4 * 16 * 24
    assert replace(rows["native"], arm="full") == smaller["full"]
    with pytest.raises(
        UserError, match=r"native cannot run on LLaVA-1\.5: its vision tower reads every picture at one s"
    ):
        arms("llava-1.5-7b", Query(frames=8), native=native)
    with pytest.raises(UserError, match="no smaller picture brings its 1569 visual tokens down to 392"):
        arms("llava-onevision-7b", Query(frames=8), native=native)


def test_a_tower_that_loses_tokens_is_cheaper():
    """So is the projector behind it; where something counts the patches it cannot be had."""
    rows = arms("llava-1.5-7b", Query(frames=2), tome=REGISTRY["tome"](retention_ratio=0.25))
    full, tome = rows["full"], rows["tome"]
    assert tome.visual_tokens == 2 * 144
    assert full.tower_flops / 4 < tome.tower_flops < full.tower_flops
    assert 4 * tome.projector_flops == full.projector_flops
    rows = arms("llava-1.5-7b", Query(frames=2), tome=REGISTRY["tome"](r=0))
    assert (rows["tome"].tower_flops, rows["tome"].total_flops) == (full.tower_flops, full.total_flops)
    with pytest.raises(
        UserError, match=r"--pipeline tome: tome cannot run on Qwen3-VL: .* counts the patches of every frame"
    ):
        arms("qwen3-vl-8b", Query(frames=2), tome=REGISTRY["tome"](retention_ratio=0.25))


def test_merging_before_the_projector_is_priced():
    """The projector takes each contextual token besides all patches; where it mixes tokens, they come behind it."""
    rows = arms("llava-1.5-7b", Query(), zip=REGISTRY["visionzip"]())
    full, zipped = rows["full"].projector_flops, rows["zip"].projector_flops
    assert 576 * (zipped - full) == 10 * full
    rows = arms("llava-onevision-7b", Query(frames=2), zip=REGISTRY["visionzip"]())
    assert rows["zip"].projector_flops == rows["full"].projector_flops


def test_what_cannot_run_or_needs_more_is_said():
    pooling = REGISTRY["topic"](retention_ratio=0.5, query="pooling")
    with pytest.raises(UserError, match=r"--pipeline mine: topic cannot run on LLaVA-1\.5: .* is no SigLIP"):
        arms("llava-1.5-7b", Query(), mine=pooling)
    rows = arms("llava-onevision-7b", Query(frames=2), mine=pooling)
    assert (rows["full"].auxiliary_not_counted, rows["mine"].auxiliary_not_counted) == (False, True)


def test_impossible_queries():
    with pytest.raises(UserError, match="--frames"):
        arms("llava-1.5-7b", Query(frames=10**6))
    for resolution, reason in (((2, 2000), "200 to 1"), ((9000, 9000), "16,384")):
        with pytest.raises(UserError, match=reason):
            arms("qwen3-vl-8b", Query(resolution=resolution))


def test_all_pairs_of_very_many_tokens_are_not_tried():
    """They would fill the memory; a method that compares fewer is priced at any length."""
    long = Query(frames=200)
    with pytest.raises(UserError, match=r"--pipeline scissor: llava_scissor compares all pairs of 39,\d+ tokens"):
        priced("llava-onevision-7b", long, scissor=REGISTRY["llava_scissor"].example(0.5))
    rows = priced("llava-onevision-7b", long, topic=REGISTRY["topic"](retention_ratio=0.5)).arms
    assert rows[1].visual_tokens < rows[0].visual_tokens


def test_an_image_and_its_mosaic_are_reduced_each_by_itself():
    rows = arms("llava-onevision-7b", Query(resolution=(384, 768)), random=REGISTRY["random"](retention_ratio=0.5))
    whole, mosaic, newlines = 27 * 27, 27 * 54, 27
    assert rows["full"].visual_tokens == whole + mosaic + newlines
    assert rows["random"].visual_tokens == (whole + mosaic + 1) // 2 + newlines


def test_checkpoints_that_are_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "text.json").write_text("{")
    for place in ("config.json", "list.json", "text.json", "missing.json", "missing"):
        with pytest.raises(UserError, match="--checkpoint"):
            read_config(str(tmp_path / place))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 24}))
    with pytest.raises(UserError, match="'bert' cannot be priced"):
        ModelCosts(read_config(str(tmp_path)))


@pytest.mark.slow
def test_a_folder_and_a_file_are_the_same_model(tmp_path):
    read_config(NAME).save_pretrained(tmp_path)
    for place in (str(tmp_path), str(tmp_path / "config.json")):
        costs = ModelCosts(read_config(place))
        assert (costs.prefill(640), costs.tower(1)) == (costs_of(NAME).prefill(640), costs_of(NAME).tower(1))


def test_the_media_differ():
    assert len({(medium.seed, medium.is_static) for medium in SYNTHETIC_MEDIA}) == len(SYNTHETIC_MEDIA) >= 3
    assert {medium.is_static for medium in SYNTHETIC_MEDIA} == {False, True}


def test_families_by_the_way_they_read(tmp_path):
    """Frames, also where the encoder looks at values, and an image cut into tiles where no videos are read."""
    from tokenlab.testing import SAVERS

    for name in ("llava_next", "internvl", "smolvlm"):
        SAVERS[name](tmp_path / name)
    query = Query(frames=4)
    for name in ("internvl", "smolvlm"):
        costs = ModelCosts(read_config(str(tmp_path / name)))
        (row,) = profile(costs, {}, query, "float32").arms
        assert row.visual_tokens == 4 * costs.vision.shape(1).num_tokens
        assert row.tower_flops == 4 * costs.tower(1) > 0
    tiled = ModelCosts(read_config(str(tmp_path / "llava_next")))
    with pytest.raises(UserError, match="reads no videos"):
        profile(tiled, {}, query, "float32")
    (row,) = profile(tiled, {}, Query(), "float32").arms
    passes = tiled.vision.shape(1, is_image=True).passes
    assert passes > 1
    assert row.tower_flops == passes * tiled.tower(1) > 0
