"""What token reduction really saves in time on a model of real size: random weights, and the bench's own path."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.compressors.stages import Size
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.errors import UserError
from tokenlab.evaluation import token_counts
from tokenlab.metrics.record import Flops, Milliseconds
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.costs.price import price
from tokenlab.models.costs.profile import BASELINE
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families import Family
from tokenlab.models.families.support import why_unsupported
from tokenlab.models.latency import time_arms
from tokenlab.models.mllm import LoadedModel

WIDTH = 100
NAME_WIDTH = 12  # of an arm, that leaves room for two blanks between columns
QUESTION = "what colour is the circle at the end ?"


@dataclass(frozen=True)
class TimedQuery:
    """The question, answered once by one arm."""

    arm: str
    round: int
    tokens: dict[str, Any]
    flops: Flops
    milliseconds: Milliseconds
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class ArmTimes:
    """One arm over all rounds; a ratio of times is the median of those to `full` in the same round."""

    arm: str
    visual_tokens: int
    retention: float
    prefill_seconds: float
    prefill_ratio: float
    prefill_flops_ratio: float
    query_seconds: float
    query_ratio: float
    query_flops_ratio: float
    encode_share: float
    encode_flops_share: float
    peak_memory_bytes: int | None


def make_arms(method: str, ratios: Sequence[float], family: Family) -> dict[str, Pipeline]:
    """`full`, and the method at each ratio."""
    arms = {BASELINE: Pipeline()}
    for ratio in ratios:
        try:
            compressor = REGISTRY[method](retention_ratio=ratio)
        except ValueError as error:
            raise UserError(f"--retention: {error}") from error
        if reason := why_unsupported(family, compressor):
            raise UserError(f"--method: {reason}")
        arms[f"{method}@{ratio:g}"] = Pipeline((compressor,))
    return arms


def make_clip(frames: int, size: Size) -> Clip:
    """One video of noise, two frames a second, and one question about it."""
    pixels = np.random.default_rng(0).integers(0, 256, (frames, *size, 3), dtype=np.uint8)
    video = Frames(pixels, tuple(range(0, 12 * frames, 12)), np.arange(frames) / 2)
    return Clip("noise", (Sample("noise#0", "noise", QUESTION),), (video,))


def measure_arms(mllm: LoadedModel, clip: Clip, arms: Mapping[str, Pipeline], rounds: int) -> Iterator[TimedQuery]:
    """Every arm once a round, in random order; FLOPs are counted before that, which warms up.

    Raises SampleError where an arm cannot answer.
    """
    costs, traces = ModelCosts(mllm.config, mllm.family), {}
    for arm, pipeline in arms.items():
        (answer,) = mllm.generate([mllm.prepare(clip, clip.samples[0], pipeline, EncodeCache(pipeline.needs()))])
        assert answer.trace is not None
        traces[arm] = answer.trace
    for number, timed in enumerate(time_arms(mllm, [(clip, clip.samples[0], arms)] * rounds, warm_up=0)):
        trace = traces[timed.arm]
        yield TimedQuery(
            timed.arm,
            1 + number // len(arms),
            token_counts(trace),
            price(trace, costs),
            Milliseconds(**timed.milliseconds, steps=timed.steps),
            timed.peak_memory_bytes,
        )


def summarise_rounds(queries: Sequence[TimedQuery], arms: Iterable[str]) -> list[ArmTimes]:
    """One row an arm, in that order."""
    by_arm: dict[str, dict[int, TimedQuery]] = {arm: {} for arm in arms}
    for query in queries:
        by_arm[query.arm][query.round] = query
    return [_arm_times(arm, rounds, by_arm[BASELINE]) for arm, rounds in by_arm.items()]


def _arm_times(arm: str, rounds: dict[int, TimedQuery], full: dict[int, TimedQuery]) -> ArmTimes:
    def median(value: Callable[[Milliseconds], float]) -> float:
        return statistics.median(value(query.milliseconds) for query in rounds.values())

    def paired(value: Callable[[Milliseconds], float]) -> float:
        return statistics.median(value(rounds[k].milliseconds) / value(full[k].milliseconds) for k in full)

    one, whole = rounds[1], full[1]  # tokens and FLOPs are the same in every round
    visual, peaks = one.tokens["visual_tokens_out"], [query.peak_memory_bytes or 0 for query in rounds.values()]
    return ArmTimes(
        arm=arm,
        visual_tokens=visual,
        retention=visual / one.tokens["visual_tokens_in"],
        prefill_seconds=median(lambda times: times.prefill) / 1000,
        prefill_ratio=paired(lambda times: times.prefill),
        prefill_flops_ratio=one.flops.prefill / whole.flops.prefill,
        query_seconds=median(lambda times: times.total) / 1000,
        query_ratio=paired(lambda times: times.total),
        query_flops_ratio=one.flops.total / whole.flops.total,
        encode_share=median(lambda times: (times.processing + times.tower) / times.total),
        encode_flops_share=(one.flops.tower + one.flops.projector) / one.flops.total,
        peak_memory_bytes=max(peaks) or None,
    )


COLUMNS: dict[str, Callable[[ArmTimes], str]] = {
    "visual\ntokens": lambda row: f"{row.visual_tokens:,}",
    "kept\n%": lambda row: f"{100 * row.retention:.1f}",
    "prefill\ns": lambda row: f"{row.prefill_seconds:.3f}",
    "x full\ntime": lambda row: f"{row.prefill_ratio:.3f}",
    "x full\nFLOPs": lambda row: f"{row.prefill_flops_ratio:.3f}",
    "query\ns": lambda row: f"{row.query_seconds:.3f}",
    "x full\ntime ": lambda row: f"{row.query_ratio:.3f}",
    "x full\nFLOPs ": lambda row: f"{row.query_flops_ratio:.3f}",
    "tower\n% time": lambda row: f"{100 * row.encode_share:.1f}",
    "tower\n% FLOPs": lambda row: f"{100 * row.encode_flops_share:.1f}",
}
MEMORY: dict[str, Callable[[ArmTimes], str]] = {"peak\nGiB": lambda row: f"{(row.peak_memory_bytes or 0) / 2**30:.2f}"}


def table(rows: Sequence[ArmTimes]) -> Table:
    """One row an arm; only the arms' names may wrap."""
    measured = all(row.peak_memory_bytes is not None for row in rows)
    columns = {**COLUMNS, **(MEMORY if measured else {})}
    gap = 0 if max(len(row.arm) for row in rows) > NAME_WIDTH else 1
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0), pad_edge=False, show_edge=False)
    drawn.add_column("arm", overflow="fold")
    for heading in columns:
        drawn.add_column(Text(heading), justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(Text(row.arm), *(Text(cell(row)) for cell in columns.values()))
    return drawn


def timing_headline(run: Mapping[str, Any], tokens: Mapping[str, Any]) -> list[str]:
    """What was measured, on what."""
    short = f" cut to layers: {run['layers']}" if run["layers"] else ""
    text = tokens["prompt_tokens"] - tokens["visual_tokens_in"]
    return [
        f"{run['checkpoint']}{short}, random weights in {run['dtype']}, on {run['device']}",
        f"{run['frames']} frames of {run['resolution']}: {tokens['visual_tokens_in']:,} visual + {text:,} text tokens, "
        f"{tokens['generated_tokens']} new tokens; {run['rounds']} rounds",
        f"torch {run['torch']}, transformers {run['transformers']}",
    ]


def timing_captions(rows: Sequence[ArmTimes]) -> list[str]:
    """How the numbers were made."""
    lines = [
        "s: medians of the rounds. x full, time: median of the ratios to full, each within one round.",
        "query: decoded frames to answer, each arm from the start. tower: with processor and projector.",
    ]
    if any(row.retention == 1 and row.arm != BASELINE for row in rows):
        lines.append("An arm that keeps all is the untouched model again: how far it is from 1.000 is noise.")
    if any(row.peak_memory_bytes is None for row in rows):
        lines.append("Peak memory: not measured on this device.")
    return lines
