"""Auxiliary encoders: evidence that a checkpoint lacks, from other models, charged to the arms that use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize
from transformers import PretrainedConfig

from tokenlab.data.samples import Frames
from tokenlab.errors import UserError
from tokenlab.models.checkpoint import load_config, load_model, load_processor
from tokenlab.models.families import Family
from tokenlab.models.settings import MLLM

KINDS = ("clip", "siglip")


def check_auxiliary(settings: MLLM, mllm: PretrainedConfig, family: Family) -> None:
    """Raises UserError for an auxiliary encoder of an unknown kind, or a checkpoint that is none or does not fit.

    Loads no weights.

    Args:
        settings: Name the encoders.
        mllm: The config of the model that they come beside.
        family: Its family's facts.
    """
    for kind in settings.auxiliary:
        if kind not in KINDS:
            raise UserError(f"model.mllm.auxiliary: there is no kind {kind!r}; known: {', '.join(KINDS)}")
        config = load_config(settings, kind)
        if config.model_type != kind:
            name = settings.auxiliary[kind]
            raise UserError(f"model.mllm.auxiliary.{kind}: {name!r} is a {config.model_type} checkpoint, not {kind}")
        if kind == "siglip":
            _check_head(config.vision_config.hidden_size, mllm, family)


def _check_head(width: int, mllm: PretrainedConfig, family: Family) -> None:
    key = "model.mllm.auxiliary.siglip"
    if not family.siglip:
        raise UserError(f"{key}: no pooling head fits {family.name}, whose vision tower is no SigLIP; take it out")
    if width != (own := mllm.vision_config.hidden_size):
        raise UserError(
            f"{key}: its pooling head reads patches of width {width}, but this model's tower makes them of width "
            f"{own}; give the SigLIP that the tower was taken from"
        )


class AuxiliaryClip(nn.Module):
    """A whole CLIP model: the joint image-text space, patch by patch.

    Args:
        settings: Names the checkpoint under `auxiliary.clip`.
    """

    def __init__(self, settings: MLLM) -> None:
        super().__init__()
        self.processor = load_processor(settings, "clip")
        self.model = load_model(settings, "clip")

    @torch.inference_mode()
    def read(
        self, frames: Frames, places: Int[Tensor, "n 3"], cropped: bool, layers: Sequence[int]
    ) -> list[Float[Tensor, "n e"]]:
        """The clip's patches in the joint space, on its token grid, layer by layer.

        Args:
            frames: The pictures; an image may lie on the grid several times, at several sizes.
            places: Frame, row and column of every grid token.
            cropped: Whether the model's tower sees the middle square of a picture, as CLIP's own processor has it; if
                not, CLIP is shown all of it, too.
            layers: Whose output is taken into that space, from the end.
        """
        side = self.model.config.vision_config.image_size
        whole = {} if cropped else {"do_center_crop": False, "size": {"height": side, "width": side}}
        pixels = self.processor.image_processor(list(frames.pixels), return_tensors="pt", **whole)["pixel_values"]
        places, tokens = places.to(self.model.device), []
        for embedded in embed_patches(self.model, pixels.to(self.model.device, self.model.dtype), layers):
            rows = round(embedded.shape[1] ** 0.5)
            on_square = embedded.float().unflatten(1, (rows, rows)).movedim(-1, 1)
            tokens.append(onto_grid(on_square, places, frames.is_image))
        return tokens

    @torch.inference_mode()
    def embed_frames(self, frames: Frames) -> Float[Tensor, "t e"]:
        """Each whole frame's pooled embedding."""
        pixels = self.processor.image_processor(list(frames.pixels), return_tensors="pt")["pixel_values"]
        return embed_frames(self.model, pixels.to(self.model.device, self.model.dtype))

    @torch.inference_mode()
    def embed_question(self, question: str) -> tuple[Float[Tensor, "q e"], tuple[int, ...]]:
        """The question's pooled embedding and its length; one a segment where it is longer than CLIP's context."""
        tokenizer = self.processor.tokenizer
        ids = tokenizer(question, add_special_tokens=False)["input_ids"]
        room = self.model.config.text_config.max_position_embeddings - tokenizer.num_special_tokens_to_add()
        segments = [tokenizer.decode(ids[start : start + room]) for start in range(0, len(ids), room)]
        inputs = [tokenizer(segment, return_tensors="pt")["input_ids"].to(self.model.device) for segment in segments]
        embedded = torch.cat([embed_text(self.model, each) for each in inputs])
        return embedded, tuple(each.shape[1] for each in inputs)


def best_cosine(frames: Float[Tensor, "t e"], segments: Float[Tensor, "q e"]) -> Float[Tensor, " t"]:
    """How well each frame fits the segment of a question that it fits best."""
    each, words = normalize(frames.float(), dim=-1)[:, None], normalize(segments.float(), dim=-1)
    return (each * words).sum(-1).amax(-1)


class AuxiliaryPoolingHead(nn.Module):
    """The pooling head of a SigLIP model, which MLLMs leave out of their towers; the rest of that model is let go.

    It stands in for [CLS] (FastVID, 2503.11187).

    Args:
        siglip: The whole model.
    """

    def __init__(self, siglip: Any) -> None:
        super().__init__()
        self.norm, self.head = siglip.vision_model.post_layernorm, siglip.vision_model.head

    def forward(self, hidden: Float[Tensor, "t p d"]) -> tuple[Float[Tensor, "t d"], Float[Tensor, "t p"]]:
        """What the head makes of each frame, and what its one query pays each patch, mean over heads.

        `hidden` is what the tower's last block gives back.
        """
        probe: Tensor = self.head.probe
        patches = self.norm(hidden.to(probe))
        pooled, weights = self.head.attention(probe.expand(len(patches), -1, -1), patches, patches)
        return (pooled + self.head.mlp(self.head.layernorm(pooled)))[:, 0], weights[:, 0]


def onto_grid(patches: Float[Tensor, "t e r c"], places: Int[Tensor, "n 3"], is_image: bool) -> Float[Tensor, "n e"]:
    """Pictures' patches averaged onto a token grid: each step in time is the mean of the frames taken together in it.

    Of an image every frame of the grid is a picture by itself, of a size of its own.
    """
    steps = int(places[:, 0].max()) + 1
    together = 1 if is_image else -(-len(patches) // steps)  # the last frame stands in where there are too few
    index = torch.arange(steps * together, device=patches.device).clamp(max=len(patches) - 1)
    per_step = patches[index].unflatten(0, (steps, together)).mean(1)
    tokens = patches.new_empty(len(places), patches.shape[1])
    for step in range(steps):
        in_step = places[:, 0] == step
        row, column = places[in_step, 1:].unbind(1)
        size = (int(row.max()) + 1, int(column.max()) + 1)
        tokens[in_step] = adaptive_avg_pool2d(per_step[step], size)[:, row, column].T
    return tokens


def embed_patches(
    clip: Any, pixels: Float[Tensor, "t 3 y x"], layers: Sequence[int] = (-1,)
) -> list[Float[Tensor, "t p e"]]:
    """Every patch, not only the class token, through CLIP's last norm and projection into the joint space."""
    hidden = clip.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    return [clip.visual_projection(clip.vision_model.post_layernorm(hidden[layer][:, 1:])) for layer in layers]


def embed_frames(clip: Any, pixels: Float[Tensor, "t 3 y x"]) -> Float[Tensor, "t e"]:
    """Whole pictures in the joint space, by the class token."""
    return clip.get_image_features(pixel_values=pixels, return_dict=True).pooler_output


def embed_text(clip: Any, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b e"]:
    """Texts in the joint space."""
    return clip.get_text_features(input_ids=ids, return_dict=True).pooler_output
