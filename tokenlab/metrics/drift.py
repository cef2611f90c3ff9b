"""How an arm's answers differ from the baseline's besides being right or wrong: shares, lengths, where they part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from tokenlab.metrics.answers import normalised
from tokenlab.metrics.record import Record

CLOSED = 12
"""Different answers up to which their shares are worth a table: letters, or yes and no."""


@dataclass(frozen=True)
class AnswerShare:
    """How often an answer is given by the arm, and how often by the baseline."""

    answer: str
    arm: float
    baseline: float


@dataclass(frozen=True)
class Drift:
    """Answers of an arm beside the baseline's, over the questions that both answered.

    Attributes:
        shares: By answer, where there are few different ones; empty otherwise.
        distance: Half the sum of the shares' differences (total variation): 0 is no drift, 1 no answer in common.
        length_ratio: Mean tokens of an answer / the baseline's.
        parting: Words before the first that differs, median of the answers that do; None where none does.
    """

    shares: tuple[AnswerShare, ...]
    distance: float
    length_ratio: float
    parting: float | None


def drift_of(pairs: Sequence[tuple[Record, Record]]) -> Drift | None:
    """How answers drift; None where there are none.

    Args:
        pairs: Records of the arm and of the baseline, question by question; both answered.
    """
    if not pairs:
        return None
    ours, theirs = (Counter(_answer(pair[side]) for pair in pairs) for side in (0, 1))
    answers = sorted(ours | theirs)
    shares = [AnswerShare(answer, ours[answer] / len(pairs), theirs[answer] / len(pairs)) for answer in answers]
    parted = [place for record, other in pairs if (place := _parting(record, other)) is not None]
    return Drift(
        shares=tuple(shares) if len(shares) <= CLOSED else (),
        distance=sum(abs(each.arm - each.baseline) for each in shares) / 2,
        length_ratio=fmean(a.generated_tokens for a, _ in pairs) / fmean(max(1, b.generated_tokens) for _, b in pairs),
        parting=float(median(parted)) if parted else None,
    )


def _answer(record: Record) -> str:
    return record.choice or normalised(record.answer or "")


def _parting(record: Record, other: Record) -> int | None:
    """Words before the first that differs; None where all are the same."""
    ours, theirs = (normalised(each.answer or "").split() for each in (record, other))
    if ours == theirs:
        return None
    same = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    return min(len(ours), len(theirs)) if same is None else same
