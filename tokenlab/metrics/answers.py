"""What counts as a right answer, and how often answers are right."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from unicodedata import normalize

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tokenlab.data.samples import Sample
from tokenlab.statistics.intervals import LEVEL, clustered_interval

INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))
"""Zero-width space, word joiner and byte order mark; joiners that change how a word is written are none of them."""


def exact_match(answer: str, expected: str) -> bool:
    """Whether two answers are the same but for case, white space and one full stop at the end; nothing more.

    Composed and decomposed spellings are one (Unicode, section 3.13, canonical caseless matching).
    """
    return normalised(answer) == normalised(expected)


def normalised(text: str) -> str:
    """An answer in the form in which answers are compared."""
    text = normalize("NFD", normalize("NFD", text).casefold()).translate(INVISIBLE)
    return " ".join(text.split()).removesuffix(".").rstrip()


class ClusteredAccuracy(Metric):
    """`clustered_interval` over the batches and ranks of a run, for use in any LightningModule.

    Args:
        level: Confidence level.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct: list[Tensor]
    cluster: list[Tensor]

    def __init__(self, level: float = LEVEL) -> None:
        super().__init__()
        self.level = level
        self.add_state("correct", default=[], dist_reduce_fx="cat")
        self.add_state("cluster", default=[], dist_reduce_fx="cat")

    def update(self, correct: Sequence[bool], clusters: Sequence[str]) -> None:
        """Add answers and the names of their clusters."""
        self.correct.append(torch.tensor(correct, dtype=torch.bool, device=self.device))
        self.cluster.append(torch.tensor([_cluster_id(name) for name in clusters], device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """`mean`, `low` and `high`."""
        correct, cluster = dim_zero_cat(self.correct), dim_zero_cat(self.cluster)
        interval = clustered_interval(correct.cpu().numpy(), cluster.cpu().numpy(), self.level)
        return {name: torch.tensor(getattr(interval, name)) for name in ("mean", "low", "high")}


def _cluster_id(name: str) -> int:
    """The same integer on every rank; Python's own hash of a string differs between processes."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def is_right(text: str, choice: str | None, sample: Sample) -> bool | None:
    """Whether an answer is one of those accepted: by its letter where there are options; None where none is known."""
    if not sample.answers:
        return None
    if sample.options:
        return choice in sample.answers
    return any(exact_match(text, accepted) for accepted in sample.answers)
