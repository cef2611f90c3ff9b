"""Before the tower, of frames, and inside it."""

import torch

from tests.golden import Case, assert_features
from tokenlab.compressors import REGISTRY, BlockView, FrameView
from tokenlab.compressors.evidence import (
    FrameScores,
)
from tokenlab.compressors.methods.tome import kth_merge


def aks(case: Case) -> None:
    scores, params = case.inputs["scores"], case.params
    count, step, total = params["max_num_frames"], params["frame_step"], len(case.inputs["scores"])
    method = REGISTRY["aks"](
        retention_ratio=count / total, t1=params["t1"], t2=float(params["t2"]), all_depth=params["all_depth"]
    )
    seconds = torch.arange(total).double()
    view = FrameView(total, seconds, "what ?", {FrameScores("clip"): scores}, torch.Generator())
    selected = method.select_frames(view).check().anchor
    assert (selected * step).tolist() == case.outputs["selected_frames"].tolist()
    parts = [[depth, start * step, (stop - 1) * step] for depth, start, stop in method.parts(scores, count)]
    assert parts == sorted(case.outputs["segments"].tolist(), key=lambda part: part[1])


def block_of(case: Case) -> BlockView:
    """A block of the tower, of two heads whose mean is the case's metric."""
    x, metric = case.inputs["x"], case.inputs["metric"]
    size = case.inputs.get("size", torch.ones(*x.shape[:2], 1))[..., 0]
    keys = torch.stack([2 * metric, torch.zeros_like(metric)], dim=2)
    protected = int(case.params["class_token"])
    grid = (1, x.shape[1] - protected)
    places = BlockView.first_places(len(x), grid[1], protected)
    return BlockView(0, 1, x, keys, keys, None, size, places, grid, protected, torch.Generator())


def tome(case: Case) -> None:
    view = block_of(case)
    frames, tokens = view.size.shape
    reduction, _ = REGISTRY["tome"](r=case.params["r"]).reduce_block(view, None)
    reduction.check()
    odd = torch.arange(1, tokens, 2).expand(frames, -1)
    first = torch.arange(frames)[:, None] * tokens
    left = torch.cat([2 * case.outputs["unm_idx"], odd], dim=1)
    assert reduction.anchor.tolist() == (first + left).flatten().tolist()
    source, target = ((first + 2 * case.outputs[name] + at).flatten() for at, name in enumerate(("src_idx", "dst_idx")))
    theirs = {(int(token), int(token)) for token in target} | set(zip(target.tolist(), source.tolist(), strict=True))
    slots = reduction.anchor.repeat_interleave(reduction.lengths)
    assert set(zip(slots.tolist(), reduction.member.tolist(), strict=True)) == theirs
    shape = case.outputs["x_merged"].shape
    assert_features(reduction.apply(view.hidden.flatten(0, 1)).reshape(shape), case.outputs["x_merged"])
    assert torch.equal(reduction.apply(view.size.flatten(), "sum"), case.outputs["size"].flatten())


def tome_kth(case: Case) -> None:
    x, metric = case.inputs["x"], case.inputs["metric"]
    size = torch.ones(x.shape[:2])
    reduction = kth_merge(metric, size, case.params["k"])
    assert_features(reduction.apply(x.flatten(0, 1)), case.outputs["x_merged"].flatten(0, 1))
    assert torch.equal(reduction.apply(size.flatten(), "sum"), case.outputs["size"].flatten())


def tome_schedule(case: Case) -> None:
    for row in case.params["rows"]:
        r, inflect = row["r"] if row["kind"] == "tuple" else (row["r"], 0.0)
        assert REGISTRY["tome"](r=r, inflect=inflect).per_block(row["num_layers"]) == row["out"]
