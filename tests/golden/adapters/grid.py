"""On the token grid."""

from dataclasses import replace

import pytest
import torch

from tests.golden import Case, assert_features
from tests.golden.views import decide_on_grid, mask_of, on_grid
from tokenlab.compressors import REGISTRY, cluster
from tokenlab.compressors.evidence import (
    FrameFeatures,
    PoolingAttention,
    QuestionEmbeddings,
    TokenEmbeddings,
    TowerAttention,
    TowerFeatures,
    TowerKeys,
)
from tokenlab.compressors.methods.prunevid import whole_scenes
from tokenlab.compressors.methods.visionzip import zip_frames
from tokenlab.models.vision.evidence import cls_attention


def cdpruner(case: Case) -> None:
    method = REGISTRY["cdpruner"](tokens=case.params["visual_token_num"])
    patches, features = case.inputs["image_embeds"], case.inputs["projected_features"]
    evidence = {
        TokenEmbeddings("clip", -2): patches.flatten(0, 1),
        QuestionEmbeddings("clip"): case.inputs["text_embeds"],
    }
    tokens = on_grid(features, len(features), 1, evidence)
    assert torch.equal(mask_of(decide_on_grid(method, tokens)), case.outputs["keep_mask"].flatten())


def divprune(case: Case) -> None:
    method = REGISTRY["divprune"](retention_ratio=case.params["threshold_ratio"])
    assert torch.equal(decide_on_grid(method, on_grid(case.inputs["x"])).anchor, case.outputs["keep_sorted"])


def dpc_knn(case: Case) -> None:
    for number, x in enumerate(case.inputs["x"]):
        _, label = cluster(x, case.params["cluster_num"], case.params["k"])
        assert torch.equal(label, case.outputs["cluster_index"][number])
        assert whole_scenes(label.tolist()) == case.outputs["refined"][number].tolist()


def dtd(case: Case) -> None:
    mode = "absolute" if case.params["absolute"] else "relative"
    method = REGISTRY["dtd"](threshold=case.params["threshold"], mode=mode)
    tokens = on_grid(case.inputs["x"], case.params["frames"], case.params["h"])
    kept, prefix = decide_on_grid(method, tokens).anchor, case.params["prefix_tokens"]
    before, behind = torch.arange(prefix), torch.arange(case.params["suffix_tokens"]) + prefix + tokens.num_tokens
    assert torch.equal(torch.cat([before, prefix + kept, behind]), case.outputs["kept_abs_index"])
    assert method.positions == "keep"


def dycoke_ttm(case: Case) -> None:
    side = round(case.params["num_tokens_per_frame"] ** 0.5)
    tokens = on_grid(case.inputs["x"], case.params["num_frames"], side)
    method = REGISTRY["dycoke"](k=case.params["merging_ratio"])
    assert torch.equal(decide_on_grid(method, tokens).anchor, case.outputs["kept_flat_index_in_output_order"])
    assert method.positions == "renumber"


def evs(case: Case) -> None:
    method = REGISTRY["evs"](retention_ratio=1 - case.params["pruning_rate"])
    rows = case.params["H"] // case.params["spatial_merge_size"]
    tokens = on_grid(case.inputs["x"], case.params["T"], rows)
    assert torch.equal(mask_of(decide_on_grid(method, tokens)), case.outputs["mask"])


def evs_vllm(case: Case) -> None:
    params = case.params
    method = REGISTRY["evs"](retention_ratio=1 - params["q"])
    tokens = on_grid(case.inputs["video_embeds"], params["T"], params["H"] // params["spatial_merge_size"])
    assert torch.equal(mask_of(decide_on_grid(method, tokens)), case.outputs["mask"])
    assert method.kept([params["tokens_per_frame"]] * params["T"]) == params["count"]


def fastervlm(case: Case) -> None:
    method = REGISTRY["fastervlm"](tokens=case.params["visual_token_num"])
    received = case.inputs["cls_attention_heads"].mean(dim=1)
    tokens = on_grid(case.inputs["features"], len(received), 1, {TowerAttention(-2, "cls"): received.flatten()})
    assert torch.equal(mask_of(decide_on_grid(method, tokens)), case.outputs["keep_mask"].flatten())


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


def llava_scissor(case: Case) -> None:
    method = REGISTRY["llava_scissor"](tau=case.params["tau"], epsilon=case.params["epsilon"])
    tokens = on_grid(case.inputs["x"], case.params["frames"])
    assert_features(decide_on_grid(method, tokens).apply(tokens.values), case.outputs["tokens"])


def pool2d(case: Case) -> None:
    if case.params["mode"] == "max":
        pytest.skip("max pooling is not linear in tokens")
    method = REGISTRY["pool"](stride=case.params["stride"], mode=case.params["mode"])
    x = case.inputs["x"]
    reduction = decide_on_grid(method, on_grid(x, len(x), case.params["side"]))
    assert_features(reduction.apply(x.flatten(0, 1)), case.outputs["y"].flatten(0, 1))


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


def vidcom2(case: Case) -> None:
    method = REGISTRY["vidcom2"](retention_ratio=case.params["base_scale"], channels=case.params["channel_ratio"])
    tokens = on_grid(case.inputs["x"], case.params["num_frames"])
    assert torch.equal(decide_on_grid(method, tokens).anchor, case.outputs["keep_flat_index"])


def vidcom2_vllm(case: Case) -> None:
    params = case.params
    method = REGISTRY["vidcom2"](retention_ratio=1 - params["q"], count="engine")
    tokens = on_grid(case.inputs["video_embeds"], params["T"], params["H"] // params["spatial_merge_size"])
    assert torch.equal(mask_of(decide_on_grid(method, tokens)), case.outputs["mask"])
    assert method.kept([params["tokens_per_frame"]] * params["T"]) == params["count"]


def visionzip(case: Case) -> None:
    """Their [CLS] is a source like any other, with the highest score there is."""
    attention = case.inputs["cls_attention"].mean(dim=1)
    scores = torch.cat([torch.full_like(attention[:, :1], torch.inf), attention], dim=1)
    dominant, contextual = case.params["api_dominant"], case.params["contextual_num"]
    reduction = zip_frames(scores, case.inputs["metric"], dominant, contextual).check()
    frames, tokens = scores.shape
    anchor = reduction.anchor.reshape(frames, -1) - torch.arange(frames)[:, None] * tokens
    assert torch.equal(anchor[:, :dominant], case.outputs["all_indices"].sort().values)
    theirs = case.outputs["tokens"]
    assert_features(reduction.apply(case.inputs["hidden_states"].flatten(0, 1)).reshape(theirs.shape), theirs)


def vispruner(case: Case) -> None:
    method = REGISTRY["vispruner"](tokens=case.params["visual_token_num"], important=case.params["important_ratio"])
    received, features = case.inputs["cls_attention_heads"].mean(dim=1), case.inputs["features"]
    evidence = {TowerAttention(-2, "cls_or_mean"): received.flatten(), TowerFeatures(-2): features.flatten(0, 1)}
    kept = mask_of(decide_on_grid(method, on_grid(features, len(features), 1, evidence)))
    assert torch.equal(kept, case.outputs["keep_mask"].flatten())
