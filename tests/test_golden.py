"""Methods against what their authors' code made of the same inputs; `--golden DIR` takes another such folder."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.golden import FOLDER, Case, assert_features, read_case
from tests.golden.views import GivenRows, decide_on_grid, in_llm, in_sequence, mask_of, on_grid
from tokenlab.compressors import REGISTRY, cluster
from tokenlab.compressors.evidence import (
    FrameFeatures,
    LayerAttention,
    NormedHidden,
    PoolingAttention,
    QuestionEmbeddings,
    TokenEmbeddings,
    TowerAttention,
    TowerFeatures,
    TowerKeys,
)
from tokenlab.compressors.methods.prunevid import whole_scenes
from tokenlab.compressors.methods.tome import kth_merge
from tokenlab.functional.attention import Attention
from tokenlab.models.vision.evidence import cls_attention

NOT_WANTED = ("left_out", "optional")
"""Statuses of folders for which no adapter is needed."""


def divprune(case: Case) -> None:
    method = REGISTRY["divprune"](retention_ratio=case.params["threshold_ratio"])
    assert torch.equal(decide_on_grid(method, on_grid(case.inputs["x"])).anchor, case.outputs["keep_sorted"])


def dtd(case: Case) -> None:
    mode = "absolute" if case.params["absolute"] else "relative"
    method = REGISTRY["dtd"](threshold=case.params["threshold"], mode=mode)
    tokens = on_grid(case.inputs["x"], case.params["frames"], case.params["h"])
    kept, prefix = decide_on_grid(method, tokens).anchor, case.params["prefix_tokens"]
    before, behind = torch.arange(prefix), torch.arange(case.params["suffix_tokens"]) + prefix + tokens.num_tokens
    assert torch.equal(torch.cat([before, prefix + kept, behind]), case.outputs["kept_abs_index"])
    assert method.positions == "keep"


def evs(case: Case) -> None:
    method = REGISTRY["evs"](retention_ratio=1 - case.params["pruning_rate"])
    rows = case.params["H"] // case.params["spatial_merge_size"]
    tokens = on_grid(case.inputs["x"], case.params["T"], rows)
    assert torch.equal(mask_of(decide_on_grid(method, tokens)), case.outputs["mask"])


def fastervlm(case: Case) -> None:
    method = REGISTRY["fastervlm"](tokens=case.params["visual_token_num"])
    received = case.inputs["cls_attention_heads"].mean(dim=1)
    tokens = on_grid(case.inputs["features"], len(received), 1, {TowerAttention(-2, "cls"): received.flatten()})
    assert torch.equal(mask_of(decide_on_grid(method, tokens)), case.outputs["keep_mask"].flatten())


def vidcom2(case: Case) -> None:
    method = REGISTRY["vidcom2"](retention_ratio=case.params["base_scale"], channels=case.params["channel_ratio"])
    tokens = on_grid(case.inputs["x"], case.params["num_frames"])
    assert torch.equal(decide_on_grid(method, tokens).anchor, case.outputs["keep_flat_index"])


def pyramiddrop(case: Case) -> None:
    params = case.params
    start, left = params["image_start"], params["current_image_tokens"]
    method = REGISTRY["pyramiddrop"](ratios=tuple(params["ratios"][1:]))
    key = case.inputs["k_rope"]
    query = torch.zeros_like(key)
    query[:, -1] = case.inputs["q_rope_last"]
    attention = Attention.of(query, key, key.shape[-1] ** -0.5)
    view = in_llm(
        method,
        case.inputs["hidden_states"],
        torch.arange(start, start + left),
        method.points(32)[params["stage"]],
        {LayerAttention(layer="next"): attention},
        initial=params["image_tokens_full"],
    )
    kept = in_sequence(method.reduce_layer(view, None)[0], view)
    assert torch.equal(kept, case.outputs["kept_index"])
    assert method.positions == "renumber"


def dart(case: Case) -> None:
    params = case.params
    tokens = params["max_num_trunction"]
    ratio = {"tokens": tokens} if tokens else {"retention_ratio": 1 - params["reduction_ratio"]}
    method = REGISTRY["dart"](**ratio)
    key, normed = case.inputs["key_states"][0], case.inputs["hidden_states_normed"][0]
    start = params["image_start"]
    view = in_llm(
        method,
        normed,
        torch.arange(start, start + params["image_len"]),
        method.points(32)[0],
        {LayerAttention(): Attention.of(key, key, 1.0), NormedHidden(): normed},
    )
    kept = view.visual[method.reduce_layer(view, None)[0].settle("raster").anchor]
    assert torch.equal(kept, case.outputs["keep_abs_sorted"])


def feather(case: Case) -> None:
    params = case.params
    method = REGISTRY["feather"](share=round(1 - params["prune_ratio"], 6), stride=params["stride"])
    side, start = params["side"], params["image_offset"]
    places = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), torch.arange(side), torch.arange(side))
    index = torch.arange(side**2)
    for point, hidden, kept in zip(
        method.points(32),
        (case.inputs["hidden_1"], case.inputs["hidden_2"]),
        (case.outputs["kept_1"], case.outputs["kept_2_original_positions"]),
        strict=True,
    ):
        normed = hidden * (hidden.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt()
        query, key = (
            (normed @ case.inputs[name].T).unflatten(1, (params["heads"], -1)).movedim(1, 0) for name in ("wq", "wk")
        )
        attention = {LayerAttention(rotary=False): Attention.of(query, key, params["head_dim"] ** -0.5)}
        visual = torch.arange(start, start + len(index))
        view = in_llm(method, hidden, visual, point, attention, places=places[index], initial=side**2)
        index = index[method.reduce_layer(view, None)[0].settle("raster").anchor]
        assert torch.equal(index, kept)


def sparsevlm(case: Case) -> None:
    params = case.params
    start, count, target = params["v_start"], params["v_num"], params["target"]
    method = REGISTRY["sparsevlm"](tokens=(target,) * 3, noise=0.0)
    entry, *cuts = method.points(32)
    visual = torch.arange(start, start + count)
    first = in_llm(method, case.inputs["embeddings"], visual, entry)
    _, state = method.reduce_layer(first, None)
    assert torch.equal(state, case.outputs["rater_text_index"])
    length = len(case.inputs["embeddings"])
    text = list(range(start + count, length))
    attention = {LayerAttention(): GivenRows(case.inputs["attention"][None], text)}
    view = in_llm(method, case.inputs["layer_output"], visual, cuts[0], attention, initial=576)
    reduction = method.reduce_layer(view, state)[0].settle(method.order)
    assert_features(
        reduction.apply(view.hidden[visual]),
        case.outputs["hidden_out"][start : len(case.outputs["hidden_out"]) - params["text_num"]],
    )


def sttm(case: Case) -> None:
    params = case.params
    off = params["temporal_thresh"] == -1
    method = REGISTRY["sttm"](
        threshold=params["threshold"],
        temporal_threshold=None if off else params["temporal_thresh"],
        root_level=params["root_level"],
        head_dim=params["head_dim"],
    )
    frames = case.inputs["video"].movedim(1, -1)
    grid = tuple(frames.shape[:3])
    places = torch.cartesian_prod(*map(torch.arange, grid))
    hidden = frames.flatten(0, 2)
    view = in_llm(
        method, hidden, torch.arange(len(hidden)), method.points(28)[0], num_layers=28, places=places, grid=grid
    )
    reduction = method.reduce_layer(view, None)[0].settle(method.order)
    assert torch.equal(places[reduction.anchor], case.outputs["tyxyx"][:, :3].long())
    assert_features(reduction.apply(hidden), case.outputs["tokens"])


def st_simdiff(case: Case) -> None:
    params, hidden = case.params, case.inputs["hidden_states"]
    method = REGISTRY["st_simdiff"](
        cost=params["cost"], similarity=params["similarity_lower_bound"], event=params["event_upper_bound"]
    )
    grid, prefix = (params["frames"], params["h"], params["w"]), params["prefix"]
    places = torch.cartesian_prod(*map(torch.arange, grid))
    visual, layers = torch.arange(prefix, prefix + len(places)), params["num_layers_constant"]
    first, second = method.points(layers)
    view = in_llm(method, hidden, visual, first, num_layers=layers, places=places, grid=grid)
    left = in_sequence(method.reduce_layer(view, None)[0], view)
    assert torch.equal(left, case.outputs["position_after_similarity"])
    visual = ((left >= prefix) & (left < prefix + len(places))).nonzero()[:, 0]
    row = case.inputs["attn_next_layer_mean"][None, None]
    attention = {LayerAttention(): GivenRows(row, [len(left) - 1])}
    view = in_llm(method, hidden[left], visual, second, attention, layers, initial=len(places))
    assert torch.equal(left[in_sequence(method.reduce_layer(view, None)[0], view)], case.outputs["position_final"])


def cdpruner(case: Case) -> None:
    method = REGISTRY["cdpruner"](tokens=case.params["visual_token_num"])
    patches, features = case.inputs["image_embeds"], case.inputs["projected_features"]
    evidence = {
        TokenEmbeddings("clip", -2): patches.flatten(0, 1),
        QuestionEmbeddings("clip"): case.inputs["text_embeds"],
    }
    tokens = on_grid(features, len(features), 1, evidence)
    assert torch.equal(mask_of(decide_on_grid(method, tokens)), case.outputs["keep_mask"].flatten())


def llava_scissor(case: Case) -> None:
    method = REGISTRY["llava_scissor"](tau=case.params["tau"], epsilon=case.params["epsilon"])
    tokens = on_grid(case.inputs["x"], case.params["frames"])
    assert_features(decide_on_grid(method, tokens).apply(tokens.values), case.outputs["tokens"])


def prumerge(case: Case, plus: bool = False) -> None:
    params, attention = case.params, case.outputs["cls_attention"]
    method = REGISTRY["prumerge"](share=None if params["if_adaptive"] else params["reduction_ratio"], plus=plus)
    query, key = (case.inputs[f"{name}_last_layer"] for name in "qk")
    received = cls_attention(query[:, None], key[:, None], query.shape[-1] ** -0.5)[:, 1:]
    assert_features(received, attention)
    features = case.inputs["features_with_cls"][:, 1:]
    evidence = {
        TowerAttention(-1, "cls", "one"): received.flatten(),
        TowerKeys(-1, "all"): key[:, 1:].flatten(0, 1),
    }
    tokens = on_grid(features, len(features), 1, evidence)
    assert_features(decide_on_grid(method, tokens).apply(tokens.values), case.outputs["tokens"].flatten(0, 1))


def prumerge_plus(case: Case) -> None:
    prumerge(case, plus=True)


def scope(case: Case) -> None:
    method = REGISTRY["scope"](tokens=case.params["num_selected"], alpha=case.params["alpha"])
    received, x = case.inputs["cls_attention_sum"], case.inputs["x"]
    evidence = {TowerAttention(-2, "cls"): received.flatten(), TowerFeatures(-2): x.flatten(0, 1)}
    kept = mask_of(decide_on_grid(method, on_grid(x, len(x), 1, evidence)))
    theirs = torch.zeros_like(received).scatter(1, case.outputs["selected_in_order"], 1.0)
    assert torch.equal(kept, theirs.flatten().bool())


def trim(case: Case) -> None:
    params = case.params
    method = REGISTRY["trim"](retention_ratio=None if params["k"] == -1 else params["k"])
    features, patches = case.inputs["features"], case.inputs["projected"]
    for number in range(len(features)):
        evidence = {
            TokenEmbeddings("clip", -2): patches[number],
            QuestionEmbeddings("clip"): case.inputs["text"][number : number + 1],
        }
        tokens = on_grid(features[number], 1, 1, evidence)
        ours = decide_on_grid(method, tokens).apply(tokens.values)
        theirs = case.outputs["tokens_fp16"][number][: len(ours)].float()
        assert len(ours) == case.outputs["actual_dims"][number]
        torch.testing.assert_close(ours, theirs, atol=3e-3, rtol=0)


def vispruner(case: Case) -> None:
    method = REGISTRY["vispruner"](tokens=case.params["visual_token_num"], important=case.params["important_ratio"])
    received, features = case.inputs["cls_attention_heads"].mean(dim=1), case.inputs["features"]
    evidence = {TowerAttention(-2, "cls_or_mean"): received.flatten(), TowerFeatures(-2): features.flatten(0, 1)}
    kept = mask_of(decide_on_grid(method, on_grid(features, len(features), 1, evidence)))
    assert torch.equal(kept, case.outputs["keep_mask"].flatten())


def fastvid(case: Case) -> None:
    params, video = case.params, case.inputs["video_tokens"]
    method = REGISTRY["fastvid"](
        retention_ratio=params["retention_ratio"],
        segments=params["DySeg_c"],
        tau=params["DySeg_tau"],
        merged=params["STPrune_d"],
        stride=params["DTM_p"],
        beta=params["DTM_beta"],
        noise=0.0,
    )
    evidence = {
        PoolingAttention(): case.inputs["frame_attention"].flatten(),
        FrameFeatures(): case.inputs["frame_global_features"],
    }
    tokens = on_grid(video, len(video), 1, evidence)
    reduction = decide_on_grid(method, tokens)
    prefix, suffix = case.inputs["prefix"], case.inputs["suffix"]
    assert_features(torch.cat([prefix, reduction.apply(tokens.values), suffix]), case.outputs["hidden_states"])
    before, behind = torch.arange(len(prefix)), torch.arange(len(suffix)) + len(prefix) + tokens.num_tokens
    kept = torch.cat([before, reduction.anchor + len(prefix), behind])
    assert torch.equal(kept, case.outputs["keep_indices"])
    assert method.positions == "keep"


def holitom(case: Case) -> None:
    params, frames = case.params, case.inputs["pooled_features"]
    method = REGISTRY["holitom"](
        outer=params["retain_ratio"],
        tau=params["tau"],
        beta=params["beta"] if params["NO_BETA"] == "0" else None,
        neighbours=params["K"],
        max_window=params["max_window_size"],
        noise=0.0,
    )
    evidence = {TowerAttention(-1, "mean"): case.inputs["pooled_attention"].flatten()}
    tokens = on_grid(frames, len(frames), 1, evidence)
    assert_features(decide_on_grid(method, tokens).apply(tokens.values), case.outputs["tokens"])


def holitom_llm(case: Case) -> None:
    params, hidden = case.params, case.inputs["hidden_states"]
    method = REGISTRY["holitom"](inner=1 - params["r"])
    first, count = params["image_start"], params["image_len"]
    attention = {LayerAttention(): GivenRows(case.inputs["attn_last_query_heads"][:, None], [len(hidden) - 1])}
    view = in_llm(method, hidden, torch.arange(first, first + count), method.points(28)[0], attention)
    reduction = method.reduce_layer(view, None)[0].settle("raster")
    assert torch.equal(in_sequence(reduction, view), case.outputs["keep_indices"])
    ours = torch.cat([hidden[:first], reduction.apply(hidden[view.visual]), hidden[first + count :]])
    assert_features(ours, case.outputs["hidden_states_out"])
    assert method.positions_inside == "keep"


def prunevid_merge(case: Case) -> None:
    params, frames = case.params, case.inputs["x"]
    method = REGISTRY["prunevid"](
        tau=params["tau"],
        segments=params["temporal_segment_ratio"],
        clusters=params["cluster_ratio"],
        neighbours=params["k"],
        noise=0.0,
    )
    tokens = on_grid(frames, len(frames))
    assert_features(decide_on_grid(method, tokens).apply(tokens.values), case.outputs["tokens"])


def prunevid_llm(case: Case) -> None:
    params, weights = case.params, case.inputs["text_to_image_attention"][0]
    method, sizes = REGISTRY["prunevid"](alpha=params["alpha"]), []
    for static, moving, frames in zip(*(params[f"{n}_sizes"] for n in ("static", "dynamic", "window")), strict=True):
        sizes += [static, *[moving // frames] * frames]
    tag = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    words, count = weights.shape[1:]
    rows = torch.cat([weights, weights.new_zeros(len(weights), words, words)], dim=2)
    attention = {LayerAttention(): GivenRows(rows, list(range(count, count + words)))}
    hidden = torch.zeros(count + words, 1)
    view = in_llm(method, hidden, torch.arange(count), method.points(32)[0], attention, tag=tag)
    kept = method.reduce_layer(view, None)[0].settle("raster").anchor
    assert torch.equal(kept, case.outputs["keep_sorted"])


def flashvid(case: Case) -> None:
    params, frames = case.params, case.inputs["x"]
    method = REGISTRY["flashvid"](
        outer=params["retention_ratio"],
        expansion=params["expansion"],
        alpha=params["alpha"],
        weigh={"attn_div": "attention", "attn_div_v2": "attention_and_scene"}[params["method"]],
        link=params["temporal_threshold"],
        segments=params["min_segment_num"],
        tau=params["segment_threshold"],
        noise=0.0,
    )
    evidence = {TowerAttention(-1, "mean"): case.inputs["cls_attention"].flatten()}
    tokens = on_grid(frames, len(frames), 1, evidence)
    reduction = decide_on_grid(method, tokens)
    assert torch.equal(reduction.anchor, case.outputs["global_index"])
    assert_features(reduction.apply(tokens.values), case.outputs["tokens"])


def dpc_knn(case: Case) -> None:
    for number, x in enumerate(case.inputs["x"]):
        _, label = cluster(x, case.params["cluster_num"], case.params["k"])
        assert torch.equal(label, case.outputs["cluster_index"][number])
        assert whole_scenes(label.tolist()) == case.outputs["refined"][number].tolist()


def pool2d(case: Case) -> None:
    if case.params["mode"] == "max":
        pytest.skip("max pooling is not linear in tokens")
    method = REGISTRY["pool"](stride=case.params["stride"], mode=case.params["mode"])
    x = case.inputs["x"]
    reduction = decide_on_grid(method, on_grid(x, len(x), case.params["side"]))
    assert_features(reduction.apply(x.flatten(0, 1)), case.outputs["y"].flatten(0, 1))


def tome_kth(case: Case) -> None:
    x, metric = case.inputs["x"], case.inputs["metric"]
    size = torch.ones(x.shape[:2])
    reduction = kth_merge(metric, size, case.params["k"])
    assert_features(reduction.apply(x.flatten(0, 1)), case.outputs["x_merged"].flatten(0, 1))
    assert torch.equal(reduction.apply(size.flatten(), "sum"), case.outputs["size"].flatten())


def fitprune(case: Case) -> None:
    params, rows = case.params, case.inputs["attn_headmax_visual_and_text_rows"]
    first, count, text = params["v_start"], params["v_num"], params["text_len"]
    method = REGISTRY["fitprune"](scheme=(params["n_delete"] / count,))
    weights = torch.zeros(1, count + text, first + count + text)
    weights[0, :, first : first + count] = rows
    attention = {LayerAttention(): GivenRows(weights, list(range(first, first + count + text)))}
    hidden, visual = torch.zeros(weights.shape[2], 1), torch.arange(first, first + count)
    view = in_llm(method, hidden, visual, method.points(1)[0], attention, num_layers=1)
    kept = in_sequence(method.reduce_layer(view, None)[0], view)
    assert torch.equal(kept, case.outputs["keep_mask_full"].nonzero()[:, 0])


def hired(case: Case) -> None:
    params, early, late = case.params, case.inputs["cls_attn_layer0"], case.inputs["cls_attn_layer22"]
    method = REGISTRY["hired"](retention_ratio=params["token_budget_rate"], alpha=params["alpha"])
    evidence = {
        TowerAttention(0, "cls"): early.mean(dim=1).flatten(),
        TowerAttention(-2, "cls"): late.mean(dim=1).flatten(),
    }
    tokens = on_grid(late.mean(dim=1)[..., None], len(late), 1, evidence)
    kept = mask_of(decide_on_grid(method, replace(tokens, is_image=True, thumbnail=0)))
    assert torch.equal(kept, case.outputs["mask"].flatten())


ADAPTERS: dict[str, Callable[[Case], None]] = {
    adapter.__name__: adapter
    for adapter in (
        cdpruner,
        dart,
        divprune,
        dpc_knn,
        dtd,
        evs,
        fastervlm,
        fastvid,
        feather,
        fitprune,
        flashvid,
        hired,
        holitom,
        holitom_llm,
        llava_scissor,
        pool2d,
        prumerge,
        prumerge_plus,
        prunevid_llm,
        prunevid_merge,
        pyramiddrop,
        scope,
        sparsevlm,
        st_simdiff,
        sttm,
        tome_kth,
        trim,
        vidcom2,
        vispruner,
    )
}
"""By folder."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case a test: of the adapters' folders, or of all folders that `--golden` finds."""
    other = metafunc.config.getoption("golden")
    folder = Path(other) if other else FOLDER
    names = sorted(path.parent.name for path in folder.glob("*/case_1")) if other else ADAPTERS
    cases = [path for name in names for path in sorted((folder / name).glob("case_*"))]
    metafunc.parametrize("path", cases, ids=lambda path: f"{path.parent.name}-{path.name}")


def test_decides_as_the_authors_code(path: Path):
    name, readme = path.parent.name, path.parents[1] / "README.json"
    status = json.loads(readme.read_text())["status"].get(name, {}) if readme.exists() else {}
    wanted = status.get("cases", {}).get(path.name, status.get("status"))
    if name not in ADAPTERS and wanted in NOT_WANTED:
        pytest.skip(status.get("reason", wanted))
    assert name in ADAPTERS, f"no adapter reads {name}"
    ADAPTERS[name](read_case(path))
