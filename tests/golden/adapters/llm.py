"""Between the layers of the LLM, and on its caches."""

import torch

from tests.golden import Case, assert_features
from tests.golden.views import GivenRows, in_llm, in_sequence
from tokenlab.compressors import REGISTRY, CacheView
from tokenlab.compressors.evidence import (
    LayerAttention,
    NormedHidden,
    StepAttention,
)
from tokenlab.functional.attention import Attention

FLAGS = {"merge": [0, 0], "prune": [1, 0], "done": [1, 1]}  # the authors' finish_merging, finish_pruning


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


def dycoke_decode(case: Case) -> None:
    first, tokens = case.params["image_token_start_index"], case.params["image_token_length"]
    visual = torch.arange(first, first + tokens)
    method = REGISTRY["dycoke"](p=case.params["dycoke_radio"], similarity=case.params["sim_threshold"])
    (layer,) = method.cache_layers(28)
    assert layer == 3
    state, seen = None, []
    for step, length in enumerate(case.params["prompt_len_with_past"]):
        attention = case.inputs[f"attn_step{step}"].mean(dim=0)
        view = CacheView(layer, 28, step + 1, visual, {StepAttention(): attention}, torch.Generator())
        reduction, state = method.reduce_cache(view, state)
        kept = set(visual[reduction.check().anchor].tolist()) | set(range(length)) - set(visual.tolist())
        theirs = case.outputs[f"kv_index_step{step}"].tolist()
        assert sorted(kept) == (sorted(theirs) if theirs != [-1] else list(range(length)))
        seen.append(len(kept) == length)
    assert set(seen) == {True, False}


def fastv(case: Case) -> None:
    first, tokens, length = (case.params[name] for name in ("sys_length", "image_token_length", "seq_len"))
    method = REGISTRY["fastv"](retention_ratio=case.params["attention_rank"] / tokens)
    (point,) = method.points(32)
    assert point == (2, "before_attention")
    attention = GivenRows(case.inputs["attn_last_query_heads"][:, None], [length - 1])
    visual = torch.arange(first, first + tokens)
    view = in_llm(method, torch.zeros(length, 1), visual, point, {LayerAttention(): attention})
    assert torch.equal(in_sequence(method.reduce_layer(view, None)[0], view), case.outputs["keep_indices"])
    assert method.positions == "keep"


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


def framefusion(case: Case) -> None:
    params, patch = case.params, case.inputs["patch_type"][0]
    method = REGISTRY["framefusion"](
        cost=params["cost"],
        similarity_lower_bound=params["similarity_lower_bound"],
        ratio_lower_bound=params["ratio_lower_bound"],
    )
    assert method.retention_ratio is None
    num_layers = params["num_layers_constant"]
    initial = int((patch >= 0).sum())
    position = torch.arange(patch.shape[0])
    frame = (position - params["prefix"]).div(params["patch_num"], rounding_mode="floor")
    state = None
    calls = sum(name.startswith("hidden_in_") for name in case.inputs)
    assert calls > 3
    for call, (layer, moment) in enumerate(method.points(num_layers)[:calls]):
        visual = (patch[position] >= 0).nonzero().flatten()
        at = position[visual]
        hidden = case.inputs[f"hidden_in_{call}"]
        row = case.inputs[f"attn_{call}_mean_over_heads_and_queries"]
        evidence = {LayerAttention(): GivenRows(row[None, None], [len(hidden) - 1])}
        view = in_llm(
            method,
            hidden,
            visual,
            (layer, moment),
            evidence if call else {},  # before the first layer there is none
            num_layers,
            places=torch.stack([frame[at], patch[at] // 6, patch[at] % 6], dim=1),
            initial=initial,
        )
        reduction, state = method.reduce_layer(view, state)
        kept = visual[reduction.check().anchor]
        before, after = torch.arange(params["prefix"]), torch.arange(int(visual[-1]) + 1, hidden.shape[0])
        position = position[torch.cat([before, kept, after])]
        assert torch.equal(position, case.outputs[f"position_{call}"])
        ours = torch.cat([hidden[before], reduction.apply(hidden[visual]), hidden[after]])
        assert_features(ours, case.outputs[f"hidden_out_{call}"])
        assert FLAGS[state.phase] == case.outputs[f"flags_{call}"].tolist()
    assert state.phase == "done"
    assert method.positions == "keep"


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
