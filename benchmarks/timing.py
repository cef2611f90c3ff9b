"""Tries the clock: two equal arms should not differ, and a planted slow-down should be found.

python benchmarks/timing.py [RUNS]

Each run times 32 questions of the embedded model, as a run of the bench does, and asks whether the 95 % interval of the
ratio holds 1: of two equal arms, and of one that is kept busy for a tenth of the other's time.
"""

import sys
import time
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import tokenlab.data  # noqa: F401 - registers the datasets
from tokenlab.compressors import GridReduction, GridView, Pipeline, Reduction
from tokenlab.data.module import DATASETS, first_questions
from tokenlab.models.latency import time_arms
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.settings import MLLM
from tokenlab.statistics.paired import Estimate, paired_ratio

QUESTIONS = 32


@dataclass(frozen=True, kw_only=True)
class Busy(GridReduction):
    """Keeps all tokens, and the processor busy."""

    name: ClassVar[str] = "busy"
    retention_ratio: float = 0.5
    milliseconds: float = 0.0

    def reduce_grid(self, view: GridView) -> Reduction:
        """Waits for a while without letting go."""
        end = time.perf_counter() + self.milliseconds / 1000
        while time.perf_counter() < end:
            pass
        return Reduction.identity(view.tokens.num_tokens)


def main(runs: int) -> None:
    """Prints a line a run, and how often each was right."""
    loaded = LoadedModel.load(MLLM(checkpoint="shapes"))
    shapes: Any = DATASETS["shapes"]
    data = shapes(num_videos=QUESTIONS)
    data.prepare_data()
    clips = [data.read(entry) for entry in first_questions(data.entries("validation"), QUESTIONS)]
    idle = Pipeline((Busy(),))
    total = fmean(measure(loaded, clips, {"a": idle, "b": idle}, 0)[1])
    slow = Pipeline((Busy(milliseconds=total / 10),))
    same = planted = 0
    for seed in range(1, runs + 1):
        equal, _ = measure(loaded, clips, {"a": idle, "b": idle}, seed)
        slower, _ = measure(loaded, clips, {"a": idle, "b": slow}, seed)
        same += holds_one(equal)
        planted += not holds_one(slower)
        print(f"run {seed}: equal {line(equal)}; slower by a tenth {line(slower)}", flush=True)
    print(f"1.00 in the interval of equal arms in {same} of {runs}; slow-down found in {planted} of {runs}")


def measure(loaded: LoadedModel, clips: list, arms: dict[str, Pipeline], seed: int) -> tuple[Estimate, list[float]]:
    """Times b / a over all questions, and a's milliseconds."""
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    questions = [(clip, sample, arms) for clip in clips for sample in clip.samples]
    for timed in time_arms(loaded, questions, seed):
        times[timed.arm].append(sum(timed.milliseconds.values()))
    return paired_ratio(times["b"], times["a"], [clip.cluster for clip, _, _ in questions]), times["a"]


def holds_one(ratio: Estimate) -> bool:
    """Whether an interval says that nothing differs."""
    return ratio.low is not None and ratio.high is not None and ratio.low <= 1 <= ratio.high


def line(ratio: Estimate) -> str:
    """A ratio with its interval."""
    return f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
