"""What pipelines would cost on a model of real size: no weights, no video, only its config and the size of a query."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from transformers import AutoConfig, PretrainedConfig

from tokenlab.compressors.pipeline import Pipeline
from tokenlab.errors import UserError
from tokenlab.models.auxiliary import KINDS
from tokenlab.models.configs import SHIPPED
from tokenlab.models.costs import ModelCosts, literature_flops
from tokenlab.models.families import FAMILIES, Family
from tokenlab.models.geometry import Layout, Size
from tokenlab.models.loading import EMBEDDED
from tokenlab.models.rehearsal import Prompt, rehearse

BASELINE = "full"
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Of one number, by the name of its precision."""

Given = TypeVar("Given")
Price = TypeVar("Price")

MOST_VISUAL_TOKENS = 1_000_000  # more than any model reads; a slip in the number of frames should not fill the memory


@dataclass(frozen=True)
class Query:
    """The size of what is asked.

    Attributes:
        frames: Frames of the video; 1 is an image.
        resolution: Height and width of a frame; None for the model's own.
        text_tokens: Template, frame markers and question together.
        new_tokens: Tokens of the answer; the first comes out of the prefill.
    """

    frames: int = 1
    resolution: Size | None = None
    text_tokens: int = 64
    new_tokens: int = 1


@dataclass(frozen=True)
class ArmProfile:
    """One pipeline's price; None for what depends on the video."""

    arm: str
    visual_tokens: int | None  # that the LLM reads
    visual_tokens_left: int | None  # behind the last cut inside the LLM
    prefill_tokens: int | None
    prefill_tokens_mean: float | None  # over the layers
    tower_flops: int | None
    projector_flops: int | None
    prefill_flops: int | None
    decode_flops: int | None
    total_flops: int | None
    cache_bytes: int | None  # when the answer is complete
    literature_flops: int | None
    auxiliary_not_counted: bool  # whether another encoder would have to be paid for besides


@dataclass(frozen=True)
class Profile:
    """All pipelines' prices on one model, at one size of query."""

    family: str
    query: Query
    layout: Layout
    dtype: str
    context: int
    weight_bytes: dict[str, int]
    arms: tuple[ArmProfile, ...]


def profile(costs: ModelCosts, pipelines: Mapping[str, Pipeline], query: Query, dtype: str) -> Profile:
    """Prices `full` and then every pipeline; raises UserError for what cannot be."""
    layout = _layout(costs, query)
    arms = []
    for arm, pipeline in {BASELINE: Pipeline(), **pipelines}.items():
        try:
            arms.append(_price(arm, pipeline, query, costs, layout, BYTES[dtype]))
        except UserError as error:
            raise UserError(f"--pipeline {arm}: {error}") from error
    return Profile(
        family=costs.vision.name,
        query=query,
        layout=layout,
        dtype=dtype,
        context=costs.text.max_position_embeddings,
        weight_bytes={part: size * BYTES[dtype] for part, size in costs.parameters.items()},
        arms=tuple(arms),
    )


def _layout(costs: ModelCosts, query: Query) -> Layout:
    """The untouched medium; one frame's tokens tell beforehand whether so many frames are a slip."""
    one = costs.vision.layout(1, query.resolution, still=query.frames == 1)
    if one.num_tokens * query.frames > MOST_VISUAL_TOKENS:
        raise UserError(
            f"--frames: {query.frames:,} frames of {one.num_tokens} visual tokens are more than the "
            f"{MOST_VISUAL_TOKENS:,} that profile looks at"
        )
    return costs.vision.layout(query.frames, query.resolution, still=query.frames == 1)


def _prompt(costs: ModelCosts, query: Query) -> Prompt:
    return Prompt(
        layout=lambda frames: costs.vision.layout(frames, query.resolution, still=query.frames == 1),
        frames=query.frames,
        text=query.text_tokens,
        new_tokens=query.new_tokens,
        num_layers=costs.num_layers,
        tower=costs.vision.inside(costs.model),
        token_wise=costs.vision.token_wise_projector(costs.model) is not None,
    )


def _price(
    arm: str, pipeline: Pipeline, query: Query, costs: ModelCosts, layout: Layout, number_bytes: int
) -> ArmProfile:
    """Raises UserError if the pipeline cannot act on this model, or on a query of this size."""
    for compressor in pipeline.active:
        if reason := _family(costs).refusal(compressor, KINDS):
            raise UserError(reason)
    counts = rehearse(pipeline, _prompt(costs, query))
    grid, later = layout.grid[1:], query.new_tokens - 1  # each later token stays in the cache of every layer
    attention, behind = counts.attention, counts.behind_attention
    tower = projector = None
    if counts.passes is not None and counts.tower is not None:
        medium = counts.passes, grid, counts.tower, query.frames == 1
        tower = costs.tower(*medium)
        if counts.projected is not None:
            projector = costs.projector(*medium) + costs.project(counts.projected)
    prefill = None if attention is None or behind is None else costs.prefill_layers(attention, behind)
    decode = _known(lambda steps: sum(map(costs.decode_step, steps)), counts.cached)
    parts = [part for part in (tower, projector, prefill, decode) if part is not None]
    return ArmProfile(
        arm=arm,
        visual_tokens=counts.visual,
        visual_tokens_left=counts.visual_left,
        prefill_tokens=_known(lambda visual: visual + query.text_tokens, counts.visual),
        prefill_tokens_mean=_known(lambda lengths: sum(lengths) / len(lengths), attention),
        tower_flops=tower,
        projector_flops=projector,
        prefill_flops=prefill,
        decode_flops=decode,
        total_flops=sum(parts) if len(parts) == 4 else None,
        cache_bytes=_known(
            lambda lengths: number_bytes * costs.cache_elements([n + later for n in lengths]), attention
        ),
        literature_flops=_known(lambda lengths: literature_flops(costs.text, lengths), attention),
        auxiliary_not_counted=_family(costs).needs_auxiliary(pipeline),
    )


def _family(costs: ModelCosts) -> Family:
    return FAMILIES[costs.config.model_type]


def _known(price: Callable[[Given], Price], given: Given | None) -> Price | None:
    """The price, if what it follows from is known."""
    return None if given is None else price(given)


def read_config(checkpoint: str) -> PretrainedConfig:
    """The config of a shipped name, a config.json, a folder or a hub id; only the last one asks the network."""
    if checkpoint in EMBEDDED:
        return _load(str(EMBEDDED[checkpoint]), local=True)
    path = SHIPPED.get(checkpoint, Path(checkpoint).expanduser())
    if path.is_dir():
        return _load(str(path), local=True)
    if path.is_file():
        return _read_file(path)
    if checkpoint.count("/") != 1 or checkpoint.startswith((".", "/", "~")) or path.suffix == ".json":
        raise UserError(
            f"--checkpoint: there is no file or folder {checkpoint!r}, and no config of that name comes along"
        )
    return _load(checkpoint, local=False)


def _read_file(path: Path) -> PretrainedConfig:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return AutoConfig.for_model(content.pop("model_type"), **content)
    except KeyError:
        raise UserError(f"--checkpoint: {path} names no model_type that transformers knows") from None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"--checkpoint: {path} is no model's config.json ({_first_line(error)})") from error


def _load(place: str, local: bool) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(place, local_files_only=local)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--checkpoint: {place!r} cannot be read ({_first_line(error)}); give a folder with a config.json, that "
            f"file, a hub id that this machine can reach, or one of {', '.join(SHIPPED)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
