"""What likelihoods say of an arm: how far it is from the untouched model, and whether its confidence is deserved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from string import ascii_uppercase

import numpy as np

from tokenlab.metrics.record import Record
from tokenlab.statistics.paired import Estimate, clustered_mean

BINS = 15
"""Bins of confidence, as Guo et al. (ICML 2017) have them."""


@dataclass(frozen=True)
class Calibration:
    """Whether the likelihoods of options deserve to be believed.

    Attributes:
        brier: Mean squared distance of the options' shares from what is right, summed over the options: 0 to 2.
        error: Expected calibration error: mean gap between confidence and accuracy, by bins of confidence.
        n: Questions with options.
    """

    brier: float
    error: float
    n: int


@dataclass(frozen=True)
class ArmLikelihoods:
    """What an arm's likelihoods say.

    Attributes:
        divergence: Of its next tokens from the untouched model's, nats a token.
        calibration: None where no question that was scored has options.
    """

    divergence: Estimate
    calibration: Calibration | None


def likelihoods_of(records: Sequence[Record], level: float) -> ArmLikelihoods | None:
    """What the likelihoods of an arm's records say; None where none was scored."""
    scored = [record for record in records if record.divergence is not None]
    if not scored:
        return None
    divergences = [float(record.divergence or 0.0) for record in scored]
    divergence = clustered_mean(divergences, [record.cluster for record in scored], level)
    if divergence.low is not None:
        divergence = replace(divergence, low=max(0.0, divergence.low))  # no distribution is nearer than the same
    return ArmLikelihoods(divergence, _calibration([r for r in scored if r.option_likelihoods and r.is_scored]))


def further_divergence(pairs: Sequence[tuple[Record, Record]], level: float) -> Estimate | None:
    """How much further an arm is from the untouched model than another; None where no question was scored with both.

    Args:
        pairs: Records of the arm and of the other, question by question.
        level: Confidence level of the interval.
    """
    found = [
        (ours.divergence - theirs.divergence, ours.cluster)
        for ours, theirs in pairs
        if ours.divergence is not None and theirs.divergence is not None
    ]
    return clustered_mean([each for each, _ in found], [cluster for _, cluster in found], level) if found else None


def _calibration(records: Sequence[Record]) -> Calibration | None:
    if not records:
        return None
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    distances, confidences, hits = [], [], []
    for record in records:
        shares = np.exp(np.asarray(record.option_likelihoods) - max(record.option_likelihoods))
        shares /= shares.sum()
        letters = ascii_uppercase[: len(shares)]
        distances.append(_distance(shares.tolist(), [letter in record.expected for letter in letters]))
        confidences.append(float(shares.max()))
        hits.append(letters[int(shares.argmax())] in record.expected)
    error = binary_calibration_error(torch.tensor(confidences), torch.tensor(hits, dtype=torch.int), n_bins=BINS)
    return Calibration(fmean(distances), float(error), len(records))


def _distance(shares: Sequence[float], right: Sequence[bool]) -> float:
    """From the truth: all of it on the options that are right, evenly where several are."""
    truth = [each / max(1, sum(right)) for each in right]
    return sum((share - true) ** 2 for share, true in zip(shares, truth, strict=True))
