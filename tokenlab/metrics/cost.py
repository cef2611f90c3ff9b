"""What an arm costs: means of tokens, FLOPs and memory over the samples that it answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from tokenlab.metrics.record import Record


@dataclass(frozen=True)
class FlopMeans:
    """FLOPs of a sample; `causal`: of `total` what no mask hides; `literature`: the prefill as papers print it."""

    tower: float
    projector: float
    auxiliary: float
    prefill: float
    decode: float
    method: float
    total: float
    causal: float
    literature: float


@dataclass(frozen=True)
class Cost:
    """Means over an arm's answered samples; failed ones are left out.

    Attributes:
        retention: Visual tokens kept / visual tokens of the untouched media, over all samples together.
        tokens_after: Visual tokens after each step of the pipeline.
        kv_cache_bytes: Keys and values of the prompt, when the LLM begins to answer.
    """

    visual_tokens_in: float
    visual_tokens_out: float
    retention: float
    tokens_after: tuple[tuple[str, float], ...]
    frames_encoded: float
    prompt_tokens: float
    prefill_tokens: float
    generated_tokens: float
    flops: FlopMeans
    kv_cache_bytes: float


def cost_of(records: Sequence[Record]) -> Cost:
    """An arm's means over its answered samples, of which there are some."""

    def mean(value: Callable[[Record], float]) -> float:
        return fmean(map(value, records))

    tokens_in, tokens_out = mean(lambda r: r.visual_tokens_in), mean(lambda r: r.visual_tokens_out)
    return Cost(
        visual_tokens_in=tokens_in,
        visual_tokens_out=tokens_out,
        retention=tokens_out / tokens_in if tokens_in else 1.0,
        tokens_after=_tokens_after(records),
        frames_encoded=mean(lambda r: r.frames_encoded),
        prompt_tokens=mean(lambda r: r.prompt_tokens),
        prefill_tokens=mean(lambda r: r.prefill_tokens),
        generated_tokens=mean(lambda r: r.generated_tokens),
        flops=FlopMeans(
            tower=mean(lambda r: r.flops.tower),
            projector=mean(lambda r: r.flops.projector),
            auxiliary=mean(lambda r: r.flops.auxiliary),
            prefill=mean(lambda r: r.flops.prefill),
            decode=mean(lambda r: r.flops.decode),
            method=mean(lambda r: r.flops.method),
            total=mean(lambda r: r.flops.total),
            causal=mean(lambda r: r.flops.causal),
            literature=mean(lambda r: r.flops.literature),
        ),
        kv_cache_bytes=mean(lambda r: r.kv_cache_bytes),
    )


def _tokens_after(records: Sequence[Record]) -> tuple[tuple[str, float], ...]:
    """Mean tokens after each step; a step is its place in the pipeline, for a compressor may stand there twice."""
    steps: dict[tuple[int, str], list[int]] = defaultdict(list)
    for record in records:
        for place, (name, tokens) in enumerate(record.tokens_after):
            steps[place, name].append(tokens)
    return tuple((name, fmean(steps[place, name])) for place, name in sorted(steps))
