"""What a method leaves inside a CLIP tower, block by block and head by head: the reference for reductions there."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.reference.families import Checkpoint
from tests.reference.sequence import dense
from tokenlab.compressors.evidence import ProjectorInput
from tokenlab.compressors.stages import BlockView, TowerReduction
from tokenlab.tokens import Evidence


@dataclass
class Left:
    """What is left of one clip.

    Attributes:
        class_tokens: The projected class token of each frame.
        features: Projected tokens, in the order of the grid.
        home: Which token of the untouched grid each stands in for.
        evidence: What was read in the blocks, in the same order.
    """

    class_tokens: Tensor
    features: Tensor
    home: Tensor
    evidence: dict[Evidence, Tensor]


def look(
    checkpoint: Checkpoint,
    inputs: dict[str, Tensor],
    method: TowerReduction,
    noise: Callable[[str], torch.Generator],
    attention: Evidence,
    keys: Evidence,
    layer: int,
) -> Left:
    """The tower and the projector; `attention` and `keys` are evidence read in a layer, counted from the end."""
    tower, pixels = checkpoint.tower(inputs)
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    frames, tokens = hidden.shape[:2]
    home = torch.arange(frames * tokens).reshape(frames, tokens)
    size, seen, state = torch.ones(frames, tokens), {}, None
    depth = len(tower.encoder.layers)
    read = depth + 1 + checkpoint.model.config.vision_feature_layer
    for number, block in enumerate(tower.encoder.layers[:read]):
        attended, key, value, weights = attend(block.self_attn, block.layer_norm1(hidden), size, method)
        if number == depth + layer:
            seen[attention], seen[keys] = weights.mean(1)[:, 0], key.mean(1)
        hidden = hidden + attended
        if method.moment == "after_block":
            hidden = hidden + block.mlp(block.layer_norm2(hidden))
        view = BlockView(
            layer=number,
            num_layers=read,
            hidden=hidden,
            keys=key.transpose(1, 2),
            values=value.transpose(1, 2),
            cls_attention=weights.mean(1)[:, 0],
            size=size,
            places=home % tokens - 1,
            grid=(round((tokens - 1) ** 0.5),) * 2,
            protected=1,
            generator=noise(f"block {number}"),
        )
        reduction, state = method.reduce_block(view, state)
        hidden = by_frame(dense(reduction, hidden.flatten(0, 1)), frames)
        size = by_frame(dense(reduction, size.flatten(), "sum"), frames)
        home = by_frame(home.flatten()[reduction.anchor], frames)
        seen = {need: by_frame(dense(reduction, x.flatten(0, 1), need.combine), frames) for need, x in seen.items()}
        if method.moment == "after_attention":
            hidden = hidden + block.mlp(block.layer_norm2(hidden))
    features = checkpoint.projector(hidden)
    seen[ProjectorInput()] = hidden
    patches = (home - torch.arange(1, frames + 1)[:, None])[:, 1:].flatten()
    order = torch.arange(len(patches)) if method.order == "rank" else patches.argsort()
    evidence = {need: x[:, 1:].flatten(0, 1)[order] for need, x in seen.items()}
    return Left(features[:, 0], features[:, 1:].flatten(0, 1)[order], patches[order], evidence)


def attend(module, hidden: Tensor, size: Tensor, method: TowerReduction) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention in plain matrices; a token of size s counts s times where the method wants that."""
    query, key, value = (
        project(hidden).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for project in (module.q_proj, module.k_proj, module.v_proj)
    )
    scores = query @ key.transpose(-1, -2) * module.scale
    if method.proportional_attention:
        scores = scores + size.log()[:, None, None]
    weights = scores.softmax(-1)
    return module.out_proj((weights @ value).transpose(1, 2).flatten(2)), key, value, weights


def by_frame(rows: Tensor, frames: int) -> Tensor:
    return rows.reshape(frames, -1, *rows.shape[1:])
