"""The visual-token stage: methods decide on the token grid, and their decisions are carried out there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from tokenlab.compressors.base import SampleNoise, TokenCompressor
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.compressors.stages import GridReduction, GridView, TowerReduction
from tokenlab.errors import failing_sample
from tokenlab.models.clock import stage
from tokenlab.models.counter import MethodWork
from tokenlab.models.vision.encode import ALIGNED, Encoded
from tokenlab.models.vision.evidence import PROJECTOR_INPUT
from tokenlab.reduction import Reduction
from tokenlab.tokens import Evidence, VisualTokens
from tokenlab.trace import AppliedReduction, Trace

Projector = Callable[[Float[Tensor, "n e"]], Float[Tensor, "n d"]]
"""A projector that takes tokens one by one."""


@dataclass(frozen=True)
class Decided:
    """What one method decided before the LLM.

    Attributes:
        method: The method.
        reductions: Of every medium, on the CPU.
        flops: Of deciding each of them.
    """

    method: TokenCompressor
    reductions: list[Reduction]
    flops: list[int]


Decisions = list[Decided]
"""In the order in which the methods acted."""


def reduce_on_grid(
    media: list[VisualTokens],
    question: str,
    pipeline: Pipeline,
    noise: SampleNoise,
    projector: Projector | None,
) -> tuple[list[VisualTokens], Decisions]:
    """Runs the stage on all media of a prompt; raises SampleError where a method cannot act on one of them.

    Args:
        media: The tokens of each medium, with the evidence that the pipeline looks at.
        question: What is per_token.
        pipeline: Its methods on the token grid decide, one after the other.
        noise: Of the sample.
        projector: The projector, if it takes tokens one by one: what may be merged before it.

    Returns:
        What is left of each medium, and the decisions.
    """
    decisions: Decisions = []
    for place, method in pipeline.placed(GridReduction).items():
        decided = Decided(method, [], [])
        for number, tokens in enumerate(media):
            work = MethodWork()
            if method.temporal and tokens.is_image:
                decision = Reduction.identity(tokens.num_tokens)
            else:
                view = GridView(tokens, question, noise.generator(place, number, "grid"))
                with failing_sample(method.name), work:
                    decision = method.reduce_grid(view).settle(method.order, tokens.num_tokens)
            decided.reductions.append(decision)
            decided.flops.append(work.flops)
        before = projector if method.merges_before_projector else None
        with stage("apply"):
            pairs = zip(media, decided.reductions, strict=True)
            media = [_apply(decision, tokens, before) for tokens, decision in pairs]
        decisions.append(decided)
    return media, decisions


def from_tower(encoded: Sequence[Encoded], pipeline: Pipeline) -> Decisions:
    """What a method inside the tower left of the media, as a decision on their token grids."""
    left = [each.tower for each in encoded if each.tower]
    reductions, flops = [each.reduction.to("cpu") for each in left], [each.flops for each in left]
    return [Decided(method, reductions, flops) for method in pipeline.of_stage(TowerReduction)]


def grid_trace(decisions: Decisions, token_wise: bool) -> Trace:
    """What was done before the LLM.

    Args:
        decisions: All decisions, inside the tower and on the grid.
        token_wise: Whether the projector takes tokens one by one, so that some were merged before it.
    """
    applied, merged_before = [], 0
    for decided in decisions:
        method = decided.method
        stage = "tower" if isinstance(method, TowerReduction) else "grid"
        drops = method.separators == "drop"
        for number, (reduction, flops) in enumerate(zip(decided.reductions, decided.flops, strict=True)):
            applied.append(AppliedReduction(stage, method.name, number, reduction, None, drops, flops))
        if token_wise and isinstance(method, GridReduction) and method.merges_before_projector:
            merged_before += sum(reduction.num_merged for reduction in decided.reductions)
    return Trace(reductions=tuple(applied), projector_tokens=merged_before)


def with_evidence(
    encoded: Encoded, needs: frozenset[Evidence], questions: Mapping[Evidence, Float[Tensor, "q _"]]
) -> VisualTokens:
    """The medium's tokens with what a pipeline looks at: other arms' evidence would ride along at its expense."""
    tokens = encoded.tokens.showing(needs)
    of_question = {need: value.to(tokens.values.device) for need, value in questions.items()}
    return replace(tokens, evidence={**tokens.evidence, **of_question})


def _apply(reduction: Reduction, tokens: VisualTokens, projector: Projector | None) -> VisualTokens:
    """The tokens that are left; with a projector, merged ones are what it makes of what was merged before it.

    Kept tokens stay as they are to the bit: the projector has taken them already.
    """
    left = tokens.reduce(reduction)
    if projector is None or not reduction.merges:
        return left
    merged, values = (reduction.lengths > 0).to(left.values.device), left.values.clone()
    values[merged] = projector(left.evidence[PROJECTOR_INPUT][merged]).to(values)
    aligned = {ALIGNED: values} if ALIGNED in left.evidence else {}
    return replace(left, values=values, evidence={**left.evidence, **aligned})
