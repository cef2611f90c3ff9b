"""What pipelines would cost on a model of real size: no weights, no video, only its config and the size of a query."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from transformers import AutoConfig, PretrainedConfig

from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import Size
from tokenlab.errors import UserError, first_line
from tokenlab.models.checkpoint import EMBEDDED
from tokenlab.models.costs.configs import SHIPPED
from tokenlab.models.costs.dry_run import QueryShape, dry_run
from tokenlab.models.costs.flops import ModelCosts, literature_flops
from tokenlab.models.costs.vision import MediumShape
from tokenlab.models.families import FAMILIES
from tokenlab.models.families.support import needs_auxiliary, why_unsupported
from tokenlab.models.vision.auxiliary import KINDS

BASELINE = "full"
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Of one number, by the name of its precision."""

Known = TypeVar("Known")
Price = TypeVar("Price")

MOST_IN_PAIRS = 25_000  # whose pairs fill 2.5 GB
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
    medium: MediumShape
    dtype: str
    context: int
    weight_bytes: dict[str, int]
    arms: tuple[ArmProfile, ...]


def profile(costs: ModelCosts, pipelines: Mapping[str, Pipeline], query: Query, dtype: str) -> Profile:
    """Prices `full` and then every pipeline; raises UserError for what cannot be."""
    medium = _medium(costs, query)
    arms = []
    for arm, pipeline in {BASELINE: Pipeline(), **pipelines}.items():
        try:
            arms.append(_price(arm, pipeline, query, costs, medium, BYTES[dtype]))
        except UserError as error:
            raise UserError(f"--pipeline {arm}: {error}") from error
    return Profile(
        family=costs.family.name,
        query=query,
        medium=medium,
        dtype=dtype,
        context=costs.text.max_position_embeddings,
        weight_bytes={part: size * BYTES[dtype] for part, size in costs.parameters.items()},
        arms=tuple(arms),
    )


def _medium(costs: ModelCosts, query: Query) -> MediumShape:
    """The untouched medium; one frame's tokens tell beforehand whether so many frames are a slip."""
    is_image = query.frames == 1
    one = costs.vision.shape(1, query.resolution, is_image)
    if one.num_tokens * query.frames > MOST_VISUAL_TOKENS:
        raise UserError(
            f"--frames: {query.frames:,} frames of {one.num_tokens} visual tokens are more than the "
            f"{MOST_VISUAL_TOKENS:,} that profile looks at"
        )
    return costs.vision.shape(query.frames, query.resolution, is_image)


def _query_shape(costs: ModelCosts, query: Query) -> QueryShape:
    return QueryShape(
        medium=lambda frames, size: costs.vision.shape(frames, size, is_image=query.frames == 1),
        frames=query.frames,
        size=query.resolution or costs.vision.default_resolution,
        text=query.text_tokens,
        new_tokens=query.new_tokens,
        num_layers=costs.num_layers,
        tower=costs.vision.reducible_tower(costs.model),
        token_wise=costs.vision.token_wise_projector(costs.model) is not None,
    )


def _price(
    arm: str, pipeline: Pipeline, query: Query, costs: ModelCosts, medium: MediumShape, number_bytes: int
) -> ArmProfile:
    """Raises UserError if the pipeline cannot act on this model, or on a query of this size."""
    for compressor in pipeline.active:
        if reason := why_unsupported(costs.family, compressor, KINDS, windows=costs.windows):
            raise UserError(reason)
        if compressor.all_pairs and medium.num_tokens > MOST_IN_PAIRS:
            raise UserError(
                f"{compressor.name} compares all pairs of {medium.num_tokens:,} tokens; profile tries that with "
                f"{MOST_IN_PAIRS:,} at most: give fewer --frames"
            )
    counts = dry_run(pipeline, _query_shape(costs, query))
    later = query.new_tokens - 1  # each later token stays in the cache of every layer
    attention, mlp = counts.attention, counts.mlp
    tower = projector = None
    if counts.passes is not None and counts.grid is not None and counts.tower is not None:
        seen = counts.passes, counts.grid, counts.tower, query.frames == 1
        tower = costs.tower(*seen)
        if counts.projector is not None:
            projector = costs.projector(*seen) + costs.projector_tokens(counts.projector)
    prefill = None if attention is None or mlp is None else costs.prefill_layers(attention, mlp)
    decode = _known(lambda steps: sum(map(costs.decode_step, steps)), counts.visible)
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
            lambda lengths: number_bytes * costs.cache_elements([n + later for n in lengths]), counts.cached
        ),
        literature_flops=_known(lambda lengths: literature_flops(costs.text, lengths), attention),
        auxiliary_not_counted=needs_auxiliary(costs.family, pipeline),
    )


def _known(price: Callable[[Known], Price], value: Known | None) -> Price | None:
    """The price, if what it follows from is known."""
    return None if value is None else price(value)


def read_config(checkpoint: str) -> PretrainedConfig:
    """Reads the config of a shipped name, a config.json, a folder or a hub id; only the last one asks the network.

    Raises:
        UserError: If there is none, or it is of a family that cannot be priced.
    """
    config = _find_config(checkpoint)
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"--checkpoint: model type {config.model_type!r} cannot be priced; known: {known}")
    return config


def _find_config(checkpoint: str) -> PretrainedConfig:
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
        raise UserError(f"--checkpoint: {path} is no model's config.json ({first_line(error)})") from error


def _load(location: str, local: bool) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(location, local_files_only=local)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--checkpoint: {location!r} cannot be read ({first_line(error)}); give a folder with a config.json, that "
            f"file, a hub id that this machine can reach, or one of {', '.join(SHIPPED)}"
        ) from error
