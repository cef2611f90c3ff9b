"""First stage: a CLIP whose patches answer to phrases about a region, and whose [CLS] answers to captions.

The text side is kept as rough as web text is: regions are loose boxes instead of masks, one frame in four has none,
some carry the phrase of another object, and every phrase may be padded with words that mean nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, PreTrainedTokenizerFast

from tokenlab.shapes.network import FEATURE_LAYER, FILLERS, GRID, PATCH
from tokenlab.shapes.questions import quadrant
from tokenlab.shapes.world import COLOURS, NUM_FRAMES, SHAPES, Scene

PAIRS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
BACKGROUND = len(PAIRS)
GROUPS = {
    "pair": [*PAIRS, "background"],
    "colour": [f"{colour} object" for colour in COLOURS],
    "shape": list(SHAPES),
    "row": [f"at row{i}" for i in range(1, GRID + 1)],
    "column": [f"at column{i}" for i in range(1, GRID + 1)],
}
"""Phrases that compete for a patch; those of places keep its position alive up to the last layer."""

SHARE_WITH_REGIONS = 0.75
WRONG_REGION = 0.05
BACKGROUND_WEIGHT = 0.25
NO_LABEL = -1


@dataclass
class ClipBatch:
    """Frames with region labels per patch (`NO_LABEL` where unknown) and the token ids of phrases and captions."""

    pixels: Float[Tensor, "batch 3 64 64"]
    labels: Int[Tensor, "batch patches"]
    phrases: dict[str, Int[Tensor, "phrases phrase_length"]]
    captions: dict[str, Int[Tensor, "batch caption_length"]]


def to_pixels(frames: UInt8[np.ndarray, "batch 64 64 3"]) -> Float[Tensor, "batch 3 64 64"]:
    """What the image processor makes of frames of this size."""
    return torch.tensor(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def clip_batch(
    videos: UInt8[np.ndarray, "videos 16 64 64 3"],
    scenes: Sequence[Scene],
    tokenizer: PreTrainedTokenizerFast,
    rng: np.random.Generator,
    size: int,
) -> ClipBatch:
    """One frame each of different videos."""
    chosen = rng.choice(len(scenes), size, replace=False)
    times = rng.integers(0, NUM_FRAMES, size)
    labels = np.full((size, GRID, GRID), NO_LABEL)
    captions = []
    for i, (video, time) in enumerate(zip(chosen, times, strict=True)):
        scene, frame = scenes[video], int(time) + 1
        captions.append(caption(scene, frame, rng))
        if rng.random() < SHARE_WITH_REGIONS:
            labels[i] = region_labels(scene, frame, rng)
    phrases = [padded(phrase, rng) for group in GROUPS.values() for phrase in group]
    return ClipBatch(
        to_pixels(videos[chosen, times]),
        torch.from_numpy(labels).flatten(1),
        dict(tokenizer(phrases, padding=True, return_tensors="pt")),
        dict(tokenizer(captions, padding=True, return_tensors="pt")),
    )


def padded(phrase: str, rng: np.random.Generator) -> str:
    """The phrase, often among words that say nothing about the picture."""
    if rng.random() < 0.4:
        return phrase
    words = phrase.split()
    for filler in rng.choice(FILLERS, rng.integers(1, 6)):
        words.insert(int(rng.integers(0, len(words) + 1)), str(filler))
    return " ".join(words)


def caption(scene: Scene, frame: int, rng: np.random.Generator) -> str:
    """What there is to see in a frame, in any order, more often than not with its place."""
    located = rng.random() < 0.6
    parts = []
    for i in rng.permutation(len(scene.things)):
        state = scene.things[i].state(frame)
        if state is not None:
            place = f" {quadrant(state.x, state.y)}" if located else ""
            parts.append(f"{state.colour} {scene.things[i].shape}{place}")
    return padded(" and ".join(parts) or "background", rng)


def region_labels(scene: Scene, frame: int, rng: np.random.Generator) -> Int[np.ndarray, "8 8"]:
    """For each patch the pair whose loose box covers a good part of it, or the background."""
    labels = np.full((GRID, GRID), BACKGROUND)
    edges = np.arange(GRID) * PATCH
    shown = [(thing, state) for thing, state in zip(scene.things, scene.states(frame), strict=True) if state]
    for thing, state in shown:
        left, top, right, bottom = thing.radius + rng.uniform(-1, 1.5, 4)
        across = np.minimum(edges + PATCH, state.x + right) - np.maximum(edges, state.x - left)
        along = np.minimum(edges + PATCH, state.y + bottom) - np.maximum(edges, state.y - top)
        covered = np.outer(along.clip(0), across.clip(0)) > 0.3 * PATCH**2
        if rng.random() < WRONG_REGION:
            thing, state = shown[rng.integers(len(shown))]
        labels[covered] = PAIRS.index(f"{state.colour} {thing.shape}")
    return labels


def clip_loss(clip: CLIPModel, batch: ClipBatch) -> Tensor:
    """Caption contrast plus region contrast, both on the last layer and, at half weight, on the one LLaVA reads.

    There [CLS] learns where to look as well: its attention in the last layer but one is what pruning methods use.
    """
    seen = clip.vision_model(batch.pixels, output_hidden_states=True)
    phrases = text_embeddings(clip, batch.phrases)
    captions = text_embeddings(clip, batch.captions)
    scale = clip.logit_scale.exp().clamp(max=100)
    loss = scale.new_zeros(())
    for layer, weight in ((-1, 1.0), (FEATURE_LAYER, 0.5)):
        tokens = embed_tokens(clip, seen.hidden_states[layer])
        loss = loss + weight * _caption_loss(tokens[:, 0], captions, scale)
        loss = loss + weight * _region_loss(tokens[:, 1:], phrases, batch.labels, scale)
    return loss


def text_embeddings(clip: CLIPModel, tokens: dict[str, Int[Tensor, "batch length"]]) -> Float[Tensor, "batch width"]:
    """Unit vectors of phrases in the joint space."""
    return F.normalize(clip.text_projection(clip.text_model(**tokens).pooler_output), dim=-1)


def embed_tokens(clip: CLIPModel, hidden: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens joint"]:
    """Unit vectors of [CLS] and the patches in the joint space, patches through the norm and projection of [CLS]."""
    return F.normalize(clip.visual_projection(clip.vision_model.post_layernorm(hidden)), dim=-1)


def _caption_loss(
    images: Float[Tensor, "b d"], captions: Float[Tensor, "b d"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    match = (scale * images @ captions.T).float()
    target = torch.arange(len(match))
    return (F.cross_entropy(match, target) + F.cross_entropy(match.T, target)) / 2


def _region_loss(
    patches: Float[Tensor, "b p d"],
    phrases: Float[Tensor, "w d"],
    labels: Int[Tensor, "b p"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    known = labels != NO_LABEL
    label = labels[known]
    logits = (scale * patches[known] @ phrases.T).float().split([len(group) for group in GROUPS.values()], -1)
    place = torch.arange(GRID**2).expand_as(labels)[known]
    thing = label != BACKGROUND
    # Where there is nothing, no colour or shape can be right: cross_entropy skips the target -100.
    targets = {
        "pair": label,
        "colour": torch.where(thing, label // len(SHAPES), -100),
        "shape": torch.where(thing, label % len(SHAPES), -100),
        "row": place // GRID,
        "column": place % GRID,
    }
    weight = torch.where(thing, 1.0, BACKGROUND_WEIGHT)
    total = weight.new_zeros(())
    for name, logit in zip(GROUPS, logits, strict=True):
        used = weight * (targets[name] != -100)
        total = total + (F.cross_entropy(logit, targets[name], reduction="none") * used).sum() / used.sum()
    return total
