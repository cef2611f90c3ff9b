"""Which compressors a family can run, and why not; decided before any weights are loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tokenlab.compressors.base import TokenCompressor
from tokenlab.compressors.evidence import (
    FrameFeatures,
    FrameScores,
    LayerAttention,
    NormedHidden,
    PixelChange,
    PoolingAttention,
    ProjectorInput,
    QuestionEmbeddings,
    StepAttention,
    TokenEmbeddings,
    TowerAttention,
    TowerFeatures,
    TowerKeys,
    TowerLogits,
)
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import CacheReduction, GridReduction, LayerReduction, PixelReduction, TowerReduction
from tokenlab.errors import UserError
from tokenlab.models.families.base import Family
from tokenlab.tokens import Evidence

MASKED_KERNELS = ("sdpa", "eager")
"""Attention kernels that take any mask."""


def missing_reason(family: Family, need: Evidence, auxiliary: Collection[str] = ()) -> str | None:
    """Why evidence cannot be had, also with the auxiliary encoders named; None where it can."""
    match need:
        case TowerAttention(query="cls") | TowerLogits() if not family.has_cls:
            return f"{family.name}'s vision tower has no [CLS] token"
        case TowerAttention() | TowerLogits() | TowerKeys() | TowerFeatures():
            return None
        case TokenEmbeddings(space="llm") | QuestionEmbeddings(space="llm"):
            return None
        case PixelChange():
            shows = family.image.pixel_change is not None
            return None if shows else f"{family.name} does not say which pixels a token shows"
        case LayerAttention() if not family.after_attention and need != LayerAttention():
            return f"queries and keys of {family.name}'s LLM cannot be made apart from its layers"
        case LayerAttention() | StepAttention() | NormedHidden():
            return None
        case ProjectorInput():  # where there is one; `support_note` says where not
            return None
        case PoolingAttention() | FrameFeatures() if not family.siglip:
            return f"{family.name}'s vision tower is no SigLIP, which has a pooling head"
        case PoolingAttention() | FrameFeatures() if "siglip" not in auxiliary:
            return (
                f"{family.name} checkpoints come without SigLIP's pooling head; add model.mllm.auxiliary: "
                "{siglip: FOLDER_OR_ID}"
            )
        case PoolingAttention() | FrameFeatures():
            return None
        case FrameScores(space="llm"):
            return f"{family.name} puts no whole frames into its LLM's space; choose space: clip"
        case TokenEmbeddings() | QuestionEmbeddings() | FrameScores():
            if "clip" in auxiliary:
                return None
            return (
                f"{family.name} checkpoints come without CLIP's text side; add model.mllm.auxiliary: "
                "{clip: FOLDER_OR_ID}, or choose space: llm"
            )
    return f"{family.name} does not offer {need}"


def why_unsupported(
    family: Family,
    compressor: TokenCompressor,
    auxiliary: Collection[str] = (),
    kernel: str = "sdpa",
    windows: Collection[int | None] = (),
) -> str | None:
    """Why a compressor cannot run on a family; None where it can.

    Args:
        family: The family.
        compressor: The compressor.
        auxiliary: The auxiliary encoders there are.
        kernel: The attention kernel.
        windows: How many tokens each of the LLM's layers attends to at most; None for all.
    """
    reasons = sorted(reason for need in compressor.needs() if (reason := missing_reason(family, need, auxiliary)))
    if isinstance(compressor, PixelReduction) and not family.follows_size:
        reasons.append("its vision tower reads every picture at one size; show it fewer frames instead")
    if isinstance(compressor, TowerReduction) and not family.norm:
        reasons.append("what stands behind its vision tower counts the patches of every frame")
    if isinstance(compressor, TowerReduction) and compressor.looks_at_cls and not family.has_cls:
        reasons.append("its vision tower has no [CLS] token")
    if not family.after_attention and _acts_inside_layers(compressor):
        reasons.append("no tokens can go between attention and MLP of its LLM's layers")
    if any(windows) and _acts_in_llm(compressor):
        reasons.append(
            f"this checkpoint's LLM attends through sliding windows (of {min(filter(None, windows))} tokens), whose "
            "caches drop tokens by themselves; use methods that act before the LLM"
        )
    if kernel not in MASKED_KERNELS and _changes_attention(compressor):
        reasons.append(f"{kernel} takes no mask, through which it decides what is attended to; use sdpa or eager")
    if kernel not in MASKED_KERNELS and _leaves_gaps(family, compressor):
        reasons.append(
            f"{kernel} takes gaps in the positions for packed documents; give positions: renumber, or use sdpa"
        )
    return f"{compressor.name} cannot run on {family.name}: {reasons[0]}" if reasons else None


def support_note(family: Family, compressor: TokenCompressor) -> str:
    """How a compressor runs on a family, where it is not quite as its authors have it; else nothing."""
    if isinstance(compressor, GridReduction) and compressor.merges_before_projector and not family.projector:
        return "merges on the token grid: the projector does not take tokens one by one"
    return ""


def needs_auxiliary(family: Family, pipeline: Pipeline) -> bool:
    """Whether a pipeline only runs with another encoder beside the model."""
    return any(missing_reason(family, need) for need in pipeline.needs())


def check_pipelines(
    family: Family,
    pipelines: Mapping[str, Pipeline],
    auxiliary: Collection[str] = (),
    kernel: str = "sdpa",
    windows: Collection[int | None] = (),
) -> None:
    """Raises UserError for the first arm that cannot run on a family."""
    for arm, pipeline in pipelines.items():
        for compressor in pipeline.compressors:
            if reason := why_unsupported(family, compressor, auxiliary, kernel, windows):
                raise UserError(f"model.pipelines.{arm}: {reason}")


def _acts_in_llm(compressor: TokenCompressor) -> bool:
    """Whether a method reduces between layers, or chooses what decode steps see."""
    return compressor.acts_at(LayerReduction) or compressor.acts_at(CacheReduction)


def _acts_inside_layers(compressor: TokenCompressor) -> bool:
    """Whether a method looks between attention and MLP in a deep model."""
    if not isinstance(compressor, LayerReduction):
        return False
    return any(moment == "after_attention" for _, moment in compressor.points(32))


def _leaves_gaps(family: Family, compressor: TokenCompressor) -> bool:
    """Whether the LLM's entry reads a prompt whose position ids have gaps; under M-RoPE a row of their own has none."""
    reduces_prompt = compressor.acts_at(GridReduction) or compressor.acts_at(TowerReduction)
    return reduces_prompt and compressor.positions == "keep" and not family.mrope


def _changes_attention(compressor: TokenCompressor) -> bool:
    """Whether a method acts on what the kernel computes, not only on what it is given."""
    return compressor.acts_at(CacheReduction) or getattr(compressor, "proportional_attention", False)
