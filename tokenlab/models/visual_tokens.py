"""The visual-token stage: methods decide on the token grid, and what the LLM is to read follows from that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce

import torch
from torch import Tensor, nn

from tokenlab.compressors.base import (
    CacheReduction,
    GridReduction,
    GridView,
    LayerReduction,
    TowerReduction,
    seeded_generator,
)
from tokenlab.compressors.evidence import TokenEmbeddings
from tokenlab.compressors.pipeline import Pipeline
from tokenlab.data.samples import Sample
from tokenlab.errors import SampleError
from tokenlab.models.arrangement import Move, Prompt, arrange
from tokenlab.models.encoding import Encoded
from tokenlab.models.entry import Rewrite
from tokenlab.models.listening import PROJECTOR_INPUT
from tokenlab.models.passage import Passage
from tokenlab.tensors import Evidence, Reduction, Step, VisualTokens

ALIGNED, JOINT = TokenEmbeddings("llm"), TokenEmbeddings("clip")


@dataclass(frozen=True)
class Reduced:
    """What a pipeline makes of one prompt before the LLM reads it.

    Attributes:
        rewrite: What the LLM shall read; None: the untouched prompt.
        passage: Its way through the LLM, begun anew; None: nothing happens there.
        steps: The reductions so far, those inside the tower included.
        projected: Tokens that were merged before the projector, which then took each of them.
    """

    rewrite: Rewrite | None = None
    passage: Callable[[], Passage] | None = None
    steps: tuple[Step, ...] = ()
    projected: int = 0


def reduce_visual_tokens(
    encoded: Sequence[Encoded],
    questions: Mapping[Evidence, Tensor],
    prompt: Prompt,
    sample: Sample,
    pipeline: Pipeline,
    seed: int,
    projector: nn.Module | None,
) -> Reduced:
    """The stage on all media of a prompt; raises SampleError where a method cannot act on one of them.

    Args:
        encoded: The media behind tower and projector, with what a method inside the tower left of them.
        questions: The sample's question in the spaces in which methods compare it.
        prompt: The untouched prompt.
        sample: What is asked.
        pipeline: What to do.
        seed: Of the run's noise.
        projector: If it takes tokens one by one: what may be merged before it.
    """
    layers, cache = pipeline.at(LayerReduction), pipeline.at(CacheReduction)
    inside, methods = pipeline.at(TowerReduction), pipeline.at(GridReduction)
    if not (inside or methods or layers or cache):
        return Reduced()
    generator = partial(seeded_generator, seed, uid=sample.uid)
    media = [_with_evidence(each, pipeline.needs(), questions) for each in encoded]
    cuts: list[tuple[TowerReduction | GridReduction, list[Reduction]]] = [
        (method, [each.cut.reduction for each in encoded if each.cut]) for method in inside
    ]
    projected = 0
    for method in methods:
        before = projector if method.merges_before_projector else None
        decisions = [_decide(method, GridView(tokens, sample.question, generator(method.name))) for tokens in media]
        media = [apply(decision, tokens, before) for tokens, decision in zip(media, decisions, strict=True)]
        projected += 0 if before is None else sum(map(num_merged, decisions))
        cuts.append((method, decisions))
    rewrite = Rewrite(
        prompt,
        arrange(prompt, [Move(tuple(cut), method.positions, method.separators) for method, cut in cuts]),
        tuple(tokens.values for tokens in media),
        tuple(
            _composed(len(medium.visual), [cut[place] for _, cut in cuts], tokens.values.device)
            for place, (medium, tokens) in enumerate(zip(prompt.media, media, strict=True))
        ),
    )
    steps = tuple(
        Step(method.stage if method in inside else "grid", method.name, place, reduction)
        for method, cut in cuts
        for place, reduction in enumerate(cut)
    )
    passage = partial(Passage, rewrite, media, layers, cache, generator)
    return Reduced(rewrite, passage if layers or cache else None, steps, projected)


def apply(reduction: Reduction, tokens: VisualTokens, projector: nn.Module | None) -> VisualTokens:
    """The tokens that are left; with a projector, merged ones are what it makes of what was merged before it.

    Kept tokens stay as they are to the bit: the projector has taken them already.
    """
    left = tokens.reduce(reduction)
    if projector is None or not reduction.merges:
        return left
    merged, values = reduction.lengths > 0, left.values.clone()
    values[merged] = projector(left.evidence[PROJECTOR_INPUT][merged]).to(values)
    aligned = {ALIGNED: values} if ALIGNED in left.evidence else {}
    return replace(left, values=values, evidence={**left.evidence, **aligned})


def num_merged(reduction: Reduction) -> int:
    """How many slots are sums."""
    return int((reduction.lengths > 0).sum())


def _with_evidence(encoded: Encoded, needs: frozenset[Evidence], questions: Mapping[Evidence, Tensor]) -> VisualTokens:
    """What this pipeline looks at: other arms' evidence would ride along at its expense."""
    if JOINT in needs and encoded.processed.in_tiles:
        raise SampleError(
            f"CLIP reads an image as a whole, but this one lies on the token grid in {encoded.processed.passes} tiles: "
            "its patches have no place there; choose space: llm"
        )
    tokens = encoded.tokens
    asked = {need: value for need, value in tokens.evidence.items() if need in needs}
    here = {need: value.to(tokens.values.device) for need, value in questions.items()}
    return replace(tokens, evidence={**asked, **here})


def _decide(method: GridReduction, view: GridView) -> Reduction:
    """A method's decision about one medium; raises SampleError where it cannot act on such a one."""
    try:
        return method.reduce_grid(view).check().to(view.tokens.values.device)
    except ValueError as error:
        raise SampleError(f"{method.name} cannot act on this medium: {error}") from error


def _composed(num_tokens: int, reductions: Sequence[Reduction], device: torch.device) -> Reduction:
    """All reductions of one medium in one."""
    return reduce(Reduction.then, reductions, Reduction.identity(num_tokens, device))
