"""What is said above and below a run's tables: what was asked, and how the numbers were made."""

from __future__ import annotations

from collections.abc import Iterator

from tokenlab.metrics.summary import Summary
from tokenlab.report.columns import BEST, DOMINATED

REASONS = 5
"""How many reasons of failed samples are told apart."""


def headline(summary: Summary) -> str:
    """What was asked; an interrupted run says so first, and how far it came."""
    counts = ", ".join(
        f"{count} {noun}{'' if count == 1 else 's'}"
        for count, noun in ((summary.questions, "question"), (summary.clusters, "video"), (len(summary.arms), "arm"))
    )
    if summary.complete:
        return counts
    planned = "" if summary.questions_planned is None else f" of {summary.questions_planned}"
    return f"PARTIAL RUN: {summary.questions_of_all_arms}{planned} questions asked of every arm; in all {counts}"


def short_captions(summary: Summary) -> Iterator[str]:
    """What nobody may overlook."""
    name, timed = summary.baseline, [row.latency for row in summary.arms if row.latency]
    yield f"{BEST} best of its budget. {DOMINATED} another arm is as accurate for fewer FLOPs, or more for no more."
    if any(row.arm == name for row in summary.arms):
        yield (
            f"vs {name}: points on the same questions, clustered by video. loses < {summary.margin:g}: whether the arm "
            "certainly loses less (holds), certainly does not (fails), or too few questions were asked (?)."
        )
    else:
        yield f"No arm is named {name}: there is nothing to compare with."
    yield from _controls(summary)
    yield from _marks(summary)
    if policies := _policies(summary):
        yield f"Position ids: {policies}."
    if timed:
        yield f"Times: {timed[0].n} questions from file to answer, one by one, arms in random order."
    else:
        yield "No times: none were taken, or no question that was to be timed could be answered."
    yield from _failures(summary)


def all_captions(summary: Summary) -> Iterator[str]:
    """How the numbers were made."""
    yield from short_captions(summary)
    yield f"[{summary.level:.0%}]: intervals by Student's t over videos; of accuracy, Wilson's on an effective size."
    if any(row.arm == summary.baseline for row in summary.arms):
        yield "p: Holm's hold for all arms together; McNemar's takes questions for independent."
        yield "drift: how far the shares of answers are from the baseline's, total variation; x length: in tokens."
    if any(row.likelihoods for row in summary.arms):
        yield "KL: of next tokens from the untouched model's, along its own answer."
    if any(row.likelihoods and row.likelihoods.calibration for row in summary.arms):
        yield "Brier: squared distance from the truth, summed over options: 0 to 2."
    if makers := [f"{each.name}: {each.made_by} is right" for each in summary.strata if each.made_by]:
        yield f"What questions need: {'; '.join(makers)}, and is ranked nowhere there; the others have the rest."
    if any(row.reusable is not None for row in summary.arms):
        yield "same tokens: of the further questions about a video, those for which the first one's tokens are left."
    if any(row.reused for row in summary.arms):
        yield "with the first's: their accuracy with the tokens chosen for the first question, less with their own."
    yield "FLOPs: 2 a multiply-add, of each query's own length, without padding."
    yield from _timing(summary)
    if summary.padding_waste is not None:
        yield f"Padding: {summary.padding_waste:.1%} of the positions that the LLM computed in batches; in no FLOPs."
    yield _memory(summary)


def _controls(summary: Summary) -> Iterator[str]:
    """What the questions can tell, and which arms do not beat their controls."""
    if head := summary.head:
        bounds = f"[{head.gain.low:+.1f}, {head.gain.high:+.1f}]"
        yield f"Blind, {100 * head.blind:.1f} % are right; looking gains {head.gain.mean:+.1f} points {bounds}."
        if not head.can_rank:
            yield "That may be nothing: these questions cannot rank methods."
    for row in summary.arms:
        missed = [each for each in row.against_controls if not each.beaten]
        if missed:
            points = (f"{e.control} ({e.points.mean:+.1f} [{e.points.low:+.1f}, {e.points.high:+.1f}])" for e in missed)
            yield f"{row.arm} does not certainly beat its controls: {', '.join(points)}."


def _marks(summary: Summary) -> Iterator[str]:
    """Reductions that did not happen, and curves that turn."""
    for row in summary.arms:
        if row.unreduced:
            yield f"{row.arm} left every token before {row.unreduced:.1%} of its answers: there it reduced nothing."
    for each in summary.reversals:
        bounds = f"{each.points.mean:+.1f} [{each.points.low:+.1f}, {each.points.high:+.1f}]"
        yield f"Not monotone: {each.fewer} is right more often than {each.more}, which keeps more ({bounds})."


def _policies(summary: Summary) -> str:
    """Which arms keep position ids and which renumber them: it decides accuracy, so it is always shown."""
    arms: dict[str, list[str]] = {}
    for row in summary.arms:
        if row.positions:
            arms.setdefault(" then ".join(row.positions), []).append(row.arm)
    if len(arms) == 1:
        return f"{next(iter(arms))} in all arms that reduce"
    return "; ".join(f"{policy}: {', '.join(names)}" for policy, names in arms.items())


def _failures(summary: Summary) -> Iterator[str]:
    """Distinct reasons; failed samples are in the tables' counts, but in no mean."""
    if not summary.failures:
        return
    for row in summary.arms:
        if row.given_up:
            yield f"{row.arm} failed on every one of its first {row.n} questions, and was asked no more."
    yield "Failed samples count as wrong and are left out of tokens, FLOPs and times:"
    for reason, count in summary.failures[:REASONS]:
        yield f"  {count} x {reason}"
    if more := summary.failures[REASONS:]:
        yield f"  {sum(count for _, count in more)} x for {len(more)} further reasons, see records.jsonl"


def _timing(summary: Summary) -> Iterator[str]:
    if not any(row.latency for row in summary.arms):
        return
    yield "speed-up: geometric mean of the questions' ratios. decide: evidence and decisions, in tower and LLM too."
    yield "realised: speed-up / what the FLOPs promise; causal: FLOPs without what the mask hides."
    yield f"Attention: {'; '.join(_kernels(summary))}."
    if summary.ceilings:
        lengths = ", ".join(f"{bound:.2f}x at {length}" for length, bound in summary.ceilings)
        yield f"Ceiling of the speed-up, were the LLM free, by tokens of the answer: {lengths}."
    for row in summary.arms:
        if row.arm == summary.baseline and row.changed_by_batch is not None:
            yield f"Noise floor: {row.changed_by_batch:.1%} of {row.arm}'s answers change when asked one by one."


def _kernels(summary: Summary) -> Iterator[str]:
    """Which operators compute attention, and where."""
    arms: dict[str, list[str]] = {}
    for row in summary.arms:
        if row.latency:
            arms.setdefault(" and ".join(row.latency.attention) or "in several operators", []).append(row.arm)
    for kernels, names in arms.items():
        yield kernels if len(arms) == 1 else f"{kernels}: {', '.join(names)}"


def _memory(summary: Summary) -> str:
    peaks = [(row.peak_memory_bytes / 2**30, row.arm) for row in summary.arms if row.peak_memory_bytes is not None]
    if not peaks:
        return "Peak memory: not measured."
    (low, lowest), (high, highest) = min(peaks), max(peaks)
    return f"Peak memory of a query alone, weights included: {low:.2f} GiB ({lowest}) to {high:.2f} GiB ({highest})."
