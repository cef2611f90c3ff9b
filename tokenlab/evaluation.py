"""The LightningModule: every arm answers every sample, and each answer becomes a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning import LightningModule

from tokenlab.compressors import Pipeline, TokenCompressor
from tokenlab.compressors.pipeline import fingerprint
from tokenlab.data.module import SPLITS
from tokenlab.data.samples import Clip
from tokenlab.errors import UserError
from tokenlab.metrics.accuracy import exact_match
from tokenlab.metrics.record import Flops, Milliseconds, Record
from tokenlab.models.costs import ModelCosts
from tokenlab.models.frozen import Encodings, FrozenMLLM
from tokenlab.models.loading import load_config, weights_fingerprint
from tokenlab.models.requests import Answer
from tokenlab.models.settings import MLLM
from tokenlab.report.run import RunFolder
from tokenlab.tensors import Trace


@dataclass(frozen=True)
class Arm:
    """One named pipeline in a run, and a hash of everything that decides its answers."""

    name: str
    pipeline: Pipeline
    hash: str


class Evaluation(LightningModule):
    """Compares pipelines of compressors on one frozen MLLM; there is nothing to train.

    Args:
        mllm: The frozen model and how it answers.
        pipelines: The arms: each a name and an ordered list of compressors; `[]` is the untouched model.
        seed: Seed of all noise that compressors draw.

    Raises:
        UserError: If the checkpoint cannot be read, or an arm cannot run on it; no weights are loaded for that.
    """

    def __init__(self, mllm: MLLM, pipelines: dict[str, list[TokenCompressor]], seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.pipelines = {arm: Pipeline(tuple(compressors)) for arm, compressors in pipelines.items()}
        self.needs = frozenset().union(*(pipeline.needs() for pipeline in self.pipelines.values()))
        self.mllm = FrozenMLLM(mllm, seed)
        self.mllm.family.check(self.pipelines, mllm.auxiliary, mllm.attn_implementation)
        self.num_failed = 0

    def setup(self, stage: str) -> None:
        """Loads the model and prices it."""
        self.mllm.load()
        auxiliary = {kind: load_config(self.mllm.settings, kind) for kind in self.mllm.settings.auxiliary}
        self.costs = ModelCosts(self.mllm.config, self.mllm.family, auxiliary)
        self.arms = self._name_arms()
        self.run_folder.questions_planned = self._count_questions(stage)

    def validation_step(self, batch: Sequence[Clip], _: int) -> None:
        """Every arm answers every question about the batch's clips; each answer is recorded at once."""
        encodings = Encodings(self.mllm, self.needs)
        for arm in self.arms:
            for answer in self.mllm.answer(batch, arm.pipeline, encodings):
                record = self.record(arm, answer)
                self.num_failed += record.status == "failed"
                self.run_folder.write(record)
        self.run_folder.padding_waste = self.mllm.padding_waste

    test_step = validation_step
    predict_step = validation_step

    def record(self, arm: Arm, answer: Answer) -> Record:
        """What is kept of one answer."""
        sample = answer.sample
        about: dict[str, Any] = {
            "uid": sample.uid,
            "cluster": sample.cluster,
            "arm": arm.name,
            "arm_hash": arm.hash,
            "type": sample.type,
            "question": sample.question,
            "expected": sample.answer,
            "positions": [compressor.positions for compressor in arm.pipeline.active],
        }
        if answer.trace is None:
            wrong = None if sample.answer is None else False
            return Record(**about, status="failed", error=answer.error, correct=wrong)
        return Record(
            **about,
            answer=answer.text,
            correct=None if sample.answer is None else exact_match(answer.text, sample.answer),
            **token_counts(answer.trace),
            flops=flops(answer.trace, self.costs),
            milliseconds=Milliseconds(
                encode=answer.encode_milliseconds,
                compress=answer.compress_milliseconds,
                prefill=answer.prefill_milliseconds,
                decode=answer.decode_milliseconds,
            ),
            peak_memory_bytes=answer.peak_memory_bytes,
        )

    @property
    def run_folder(self) -> RunFolder:
        """Where records go."""
        for callback in self.trainer.callbacks:
            if isinstance(callback, RunFolder):
                return callback
        raise UserError("trainer.callbacks holds no RunFolder: records would have nowhere to go")

    def _name_arms(self) -> list[Arm]:
        """Arms with their hashes: pipeline, weights, precision, seed, answer length and frames decide an answer."""
        settings = {key: value for key, value in asdict(self.mllm.settings).items() if key != "batch_size"}
        common = {
            "mllm": settings,
            "weights": weights_fingerprint(self.mllm.model),
            "seed": self.seed,
            "num_frames": self.trainer.datamodule.num_frames,
        }
        return [
            Arm(name, pipeline, fingerprint({**common, "pipeline": pipeline.describe()}))
            for name, pipeline in self.pipelines.items()
        ]

    def _count_questions(self, stage: str) -> int:
        return sum(len(entry.samples) for entry in self.trainer.datamodule.entries(SPLITS[stage]))


def token_counts(trace: Trace) -> dict[str, Any]:
    """A record's token counts, all read off the trace of what was applied."""
    return {
        "visual_tokens_in": trace.visual_tokens_in,
        "visual_tokens_out": trace.visual_tokens_out,
        "tokens_after": _tokens_after(trace),
        "frames_encoded": sum(steps for steps, _, _ in trace.grids),
        "prompt_tokens": trace.prompt_tokens,
        "prefill_tokens": trace.prefill_tokens,
        "generated_tokens": trace.generated_tokens,
    }


def _tokens_after(trace: Trace) -> list[tuple[str, int]]:
    """Visual tokens left after each method; one that acts at many points counts once, when it is done."""
    counts = {step.compressor: trace.visual_tokens_after(k) for k, step in enumerate(trace.steps, 1)}
    return list(counts.items())


def flops(trace: Trace, costs: ModelCosts) -> Flops:
    """What one sample costs by its own lengths and steps; the first token comes out of the prefill."""
    stills = (medium.still for medium in trace.media)
    grids = (grid[1:] for grid in trace.grids)
    media = list(zip(trace.passes, grids, trace.tower_tokens, stills, strict=True))
    everywhere = (trace.prefill_tokens,) * costs.num_layers
    read = trace.attention_tokens or everywhere
    return Flops(
        tower=sum(costs.tower(*medium) for medium in media),
        projector=sum(costs.projector(*medium) for medium in media) + costs.project(trace.projected_tokens),
        auxiliary=costs.auxiliary(
            trace.auxiliary_frames, trace.auxiliary_scored, trace.auxiliary_text, trace.auxiliary_pooled
        ),
        prefill=costs.prefill_layers(
            read, trace.mlp_tokens or everywhere, rotated=trace.prefill_tokens + trace.rotated_tokens[0]
        ),
        decode=_decode_flops(trace, costs, read),
    )


def _decode_flops(trace: Trace, costs: ModelCosts, cached: Sequence[int]) -> int:
    steps = trace.generated_tokens - 1
    turned = costs.rotary(trace.rotated_tokens[1] * steps)
    if not trace.decode_sight:
        return turned + costs.decode_layers(cached, steps)
    return turned + sum(costs.decode_step(sight) for sight in trace.decode_sight[:steps])
