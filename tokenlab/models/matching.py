"""Equal cost: the budget at which a pipeline costs the FLOPs of another one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from statistics import fmean
from typing import Any

from tokenlab.compressors.pipeline import Pipeline
from tokenlab.data.samples import Clip
from tokenlab.errors import SampleError, UserError
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.costs.price import price
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.mllm import LoadedModel
from tokenlab.schema.arguments import check_names

MATCHED = 4
"""Questions on which arms are set to cost the same."""

STEPS = 1000
"""Budgets that are tried lie between 1 / 1000 and 1, in thousandths."""


def match_flops(
    loaded: LoadedModel, costs: ModelCosts, clips: Sequence[Clip], arm: str, pipeline: Pipeline, target: Pipeline
) -> Pipeline:
    """Sets the budget of a pipeline so that it costs what a target does, on the same questions up to the first token.

    By halves, on the FLOPs of what is really done to these questions.

    Args:
        loaded: The model.
        costs: Its prices.
        clips: Some of the run's questions.
        arm: The pipeline's name, for what goes wrong.
        pipeline: One of its methods has a budget.
        target: What it is to cost.

    Raises:
        UserError: If no budget costs that.
    """
    short = replace(loaded, settings=replace(loaded.settings, max_new_tokens=1))
    caches = [EncodeCache(pipeline.needs() | target.needs()) for _ in clips]

    def flops(of: Pipeline) -> float:
        answers = [each for clip, cache in zip(clips, caches, strict=True) for each in short.answer([clip], of, cache)]
        traces = [each.trace for each in answers if each.trace is not None]
        if not traces:
            raise SampleError(answers[0].error or "no answer")
        return fmean(price(trace, costs).total for trace in traces)

    @cache
    def flops_at(thousandths: int) -> float:
        """0 where no question can be answered on so little."""
        try:
            return flops(with_budget(pipeline, thousandths / STEPS))
        except SampleError:
            return 0.0

    try:
        wanted, most = flops(target), flops(with_budget(pipeline, 1.0))
    except SampleError as error:
        raise UserError(
            f"model.match_flops: none of the first questions can be answered, so no one knows what arm {arm!r} "
            f"costs: {error}"
        ) from error
    lowest = 1 + bisect_left(range(1, STEPS), True, key=lambda step: flops_at(step) > 0)
    least = flops_at(lowest)
    if not least <= wanted <= most:
        raise UserError(
            f"model.match_flops: whatever its budget, arm {arm!r} costs {least:.4g} to {most:.4g} FLOPs a question and "
            f"never {wanted:.4g}; match it with another arm"
        )
    return with_budget(pipeline, _nearest(flops_at, wanted, lowest) / STEPS)


def check_matches(matches: Mapping[str, str], pipelines: Mapping[str, Pipeline]) -> None:
    """Raises UserError unless arms are there, and exactly one method of each that is matched has a budget to set."""
    for arm, other in matches.items():
        check_names("model.match_flops", (arm, other), pipelines, "arm")
        found = [each.name for each in pipelines[arm].compressors if each.retention_ratio is not None]
        if len(found) != 1:
            raise UserError(
                f"model.match_flops: {len(found)} methods of arm {arm!r} have a retention_ratio "
                f"({', '.join(found) or 'none'}), but there must be one, which is then set"
            )


def with_budget(pipeline: Pipeline, ratio: float) -> Pipeline:
    """The pipeline with another budget."""
    compressors: tuple[Any, ...] = pipeline.compressors
    return Pipeline(
        tuple(each if each.retention_ratio is None else replace(each, retention_ratio=ratio) for each in compressors)
    )


def _nearest(value: Callable[[int], float], wanted: float, lowest: int) -> int:
    """The step, of those of a rising staircase, whose value is nearest."""
    low, high = lowest, STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if value(middle) <= wanted else (low, middle)
    return min((low, high), key=lambda step: abs(value(step) - wanted))
