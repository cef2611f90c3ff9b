"""The LightningModule: every arm answers every sample, and each answer becomes a record."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.plugins import Precision

from tokenlab.compressors import Pipeline, TokenCompressor
from tokenlab.compressors.controls import controls_of
from tokenlab.compressors.pipeline import fingerprint
from tokenlab.data.module import SPLITS, ClipEntry, first_questions
from tokenlab.data.samples import Clip, Sample
from tokenlab.errors import SampleError, UserError
from tokenlab.metrics.answers import is_right
from tokenlab.metrics.choices import read_choice
from tokenlab.metrics.counts import token_counts
from tokenlab.metrics.record import Record
from tokenlab.models.checkpoint import check_settings, load_config, weights_fingerprint
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.costs.memory import free_memory, longest_media, needed_memory
from tokenlab.models.costs.price import kv_cache_bytes, price
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families import family_of
from tokenlab.models.families.support import check_pipelines
from tokenlab.models.hf import windows_of
from tokenlab.models.latency import TimedAnswer, time_arms
from tokenlab.models.matching import MATCHED, check_matches, match_flops
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.request import Answer, in_order
from tokenlab.models.reuse import answer_with_tokens_of
from tokenlab.models.scoring import Likelihoods, ScoredQuestion, check_windows
from tokenlab.models.settings import MLLM
from tokenlab.models.vision.auxiliary import check_auxiliary
from tokenlab.models.vision.frame_selection import FRAME_SCORES
from tokenlab.report.console import followed
from tokenlab.report.environment import Environment
from tokenlab.report.overlay import Pictures, pictures_of
from tokenlab.report.run_folder import RunFolder
from tokenlab.report.sidecar import AnswerTokens


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
        match_flops: Arms whose budget is set so that they cost the FLOPs of another arm, up to the first token, on the
            first questions: `{mine: theirs}`. None by default.
        controls: Adds to each arm the controls that it has to beat: chance, pooling, fewer frames, no visual token.
        timed_questions: On how many questions the arms are timed, before all questions are answered; 0 times none.
        timed_batch_sizes: In which batches each timed question is answered besides, such as `[2, 4, 8]`, to see how
            many queries a second go through; a batch that does not fit into memory ends the list. None by default.
        reuse_tokens: Answers further questions about a video once more, with the tokens chosen for the first one.
        scored_questions: On how many questions the likelihoods of answers are compared with the untouched model's: it
            tells arms apart on fewer questions than right and wrong do. Takes a second prefill of each.

    Attributes:
        only: Questions that are asked; None asks all.

    Raises:
        UserError: If the checkpoint cannot be read, or an arm cannot run on it; no weights are loaded for that.
    """

    def __init__(
        self,
        mllm: MLLM,
        pipelines: dict[str, list[TokenCompressor]],
        seed: int = 0,
        timed_questions: int = 32,
        controls: bool = False,
        scored_questions: int = 0,
        timed_batch_sizes: list[int] | None = None,
        match_flops: dict[str, str] | None = None,
        reuse_tokens: bool = False,
    ) -> None:
        super().__init__()
        for key, number in (("timed_questions", timed_questions), ("scored_questions", scored_questions)):
            if number < 0:
                raise UserError(f"model.{key} is {number}, but must be at least 0, which takes none")
        self.timed_batch_sizes = sorted(set(timed_batch_sizes or ()))
        if min(self.timed_batch_sizes, default=2) < 2:
            raise UserError(f"model.timed_batch_sizes is {timed_batch_sizes}, but batches are of 2 prompts or more")
        self.timed_questions, self.scored_questions, self.reuse_tokens = timed_questions, scored_questions, reuse_tokens
        self.timed: dict[tuple[str, str], TimedAnswer] = {}
        self.settings, self.seed = mllm, seed
        self.pipelines = {arm: Pipeline(tuple(compressors)) for arm, compressors in pipelines.items()}
        self.match_flops = match_flops or {}
        check_matches(self.match_flops, self.pipelines)
        check_settings(mllm)
        self.config = load_config(mllm)
        check_auxiliary(mllm, self.config, family_of(self.config))
        self.controls: dict[str, list[str]] = {}
        self._complete_arms([arm for arm in self.pipelines if controls and arm not in self.match_flops])
        self._controlled_later = list(self.match_flops) if controls else []
        if scored_questions:
            check_windows(self.config, "model.scored_questions")
        self.only: frozenset[str] | None = None
        self.num_failed = self.tokens_read = self.tokens_padded = 0

    def _complete_arms(self, controlled: Sequence[str]) -> None:
        """Adds the controls of some arms, and sees that all arms can run."""
        family, mllm = family_of(self.config), self.settings
        arms = {arm: self.pipelines[arm] for arm in controlled}
        for arm, controls in controls_of(arms, family.native_resolution).items():
            self.pipelines |= controls
            self.controls[arm] = list(controls)
        check_pipelines(family, self.pipelines, mllm.auxiliary, mllm.attn_implementation, windows_of(self.config))
        self.needs = frozenset().union(*(pipeline.needs() for pipeline in self.pipelines.values()))

    def _match_arms(self, stage: str) -> None:
        """Sets the budgets of arms that are to cost what others do."""
        if not self.match_flops:
            return
        data = self._lightning.datamodule
        clips = list(data.read_in_turn(first_questions(data.entries(SPLITS[stage]), MATCHED)))
        for arm, other in self.match_flops.items():
            pipeline, target = self.pipelines[arm], self.pipelines[other]
            self.pipelines[arm] = match_flops(self.loaded, self.costs, clips, arm, pipeline, target)
        self._complete_arms(self._controlled_later)

    def setup(self, stage: str) -> None:
        """Prices the model, says what memory it needs, loads it, and places it on the trainer's device.

        Raises:
            UserError: If the trainer or the checkpoint cannot be used, or no question would be asked.
        """
        check_trainer(self.trainer)
        planned = self._entries_to_ask(stage)
        self.run_folder.questions_planned = sum(len(entry.samples) for entry in planned)
        auxiliary = {kind: load_config(self.settings, kind) for kind in self.settings.auxiliary}
        self.costs = ModelCosts(self.config, auxiliary=auxiliary)
        device = self.trainer.strategy.root_device
        shown = {tuple(file.is_image for file in entry.media) for entry in planned}
        longest = longest_media(self.costs, shown, self._lightning.datamodule.num_frames)
        need = needed_memory(self.costs, self.settings, self.settings.prompts_at_once(device.type), longest)
        print(need.line(device, free_memory(device)), file=sys.stderr)
        self.loaded = LoadedModel.load(self.settings, self.seed).to(device)
        self._match_arms(stage)
        self.arms = self._name_arms()
        self.run_folder.arms_planned = len(self.arms)
        run, kernel = self.run_folder, self.config._attn_implementation or self.settings.attn_implementation
        run.keep_environment(
            Environment.here(
                device, stage, kernel, weights_fingerprint(self.loaded.model), {arm.name: arm.hash for arm in self.arms}
            )
        )
        by_uid = {sample.uid: entry for entry in planned for sample in entry.samples}
        self.first_of = {uid: entry.samples[0] for uid, entry in by_uid.items()}
        run.pictures_of = partial(self.pictures_of, by_uid)
        self.num_failed = sum(record.status == "failed" for record in run.records)
        self._lightning.datamodule.ask_only(SPLITS[stage], self._without_recorded(planned))
        setattr(self.trainer, LIMITS[stage], 1.0)  # spent: Lightning would take a share of what is left once more
        scored = first_questions(planned, self.scored_questions)
        self.scored = {sample.uid for entry in scored for sample in entry.samples}
        self._time_arms(planned)

    def _time_arms(self, planned: Sequence[ClipEntry]) -> None:
        """Times the arms on some questions, while nothing else runs."""
        entries = self._without_recorded(first_questions(planned, self.timed_questions))
        total = sum(len(self._left(sample)) for entry in entries for sample in entry.samples)
        questions = (
            (clip, sample, self._left(sample))
            for clip in self._lightning.datamodule.read_in_turn(entries)
            for sample in clip.samples
        )
        answers = time_arms(self.loaded, questions, self.seed, batch_sizes=self.timed_batch_sizes)
        for timed in followed(answers, "Timing", total):
            if timed.answer.error is None:
                self.timed[timed.arm, timed.answer.sample.uid] = timed

    def validation_step(self, batch: Sequence[Clip], _: int) -> None:
        """Every arm answers every question about the batch's clips; each answer is recorded at once."""
        cache = EncodeCache(self.needs)
        questions = {sample.uid: (clip, sample) for clip in batch for sample in clip.samples}
        scored = {
            uid: ScoredQuestion.begin(self.loaded, *question, cache)
            for uid, question in questions.items()
            if uid in self.scored
        }
        for arm in [arm for arm in self.arms if not self.run_folder.is_hopeless(arm.name)]:
            left = [self._left_of(clip, arm) for clip in batch]
            for answer in self.loaded.answer([clip for clip in left if clip.samples], arm.pipeline, cache):
                question = scored.get(uid := answer.sample.uid)
                likelihoods = question.likelihoods(arm.pipeline) if question and answer.trace else None
                first = self.first_of[uid] if self.reuse_tokens and answer.trace else answer.sample
                reused = answer_with_tokens_of(first, self.loaded, *questions[uid], arm.pipeline, cache)
                record = self.record(arm, answer, likelihoods, reused)
                self.num_failed += record.status == "failed"
                self.run_folder.write(record, self._tokens_of(arm, answer))
                self.tokens_read += record.prefill_tokens + answer.padding
                self.tokens_padded += answer.padding
        self.run_folder.padding_waste = self.tokens_padded / max(1, self.tokens_read)

    test_step = validation_step
    predict_step = validation_step

    def _left(self, sample: Sample) -> dict[str, Pipeline]:
        """The arms that have not answered a question yet."""
        is_recorded = self.run_folder.is_recorded
        return {arm.name: arm.pipeline for arm in self.arms if not is_recorded(arm.name, sample.uid)}

    def _left_of(self, clip: Clip, arm: Arm) -> Clip:
        """A clip with the questions that an arm has not answered yet."""
        left = tuple(each for each in clip.samples if not self.run_folder.is_recorded(arm.name, each.uid))
        return clip if len(left) == len(clip.samples) else replace(clip, samples=left)

    def _without_recorded(self, entries: Sequence[ClipEntry]) -> list[ClipEntry]:
        """Clips with the questions that some arm has not answered yet."""
        left = [replace(entry, samples=tuple(filter(self._left, entry.samples))) for entry in entries]
        return [entry for entry in left if entry.samples]

    def _tokens_of(self, arm: Arm, answer: Answer) -> AnswerTokens | None:
        """What became of an answer's tokens, if the run keeps that."""
        uid = answer.sample.uid
        if answer.trace is None or not self.run_folder.wants_tokens_of(uid):
            return None
        return AnswerTokens.of(uid, arm.name, answer.ids, answer.trace)

    def pictures_of(self, entries: Mapping[str, ClipEntry], uid: str) -> list[Pictures]:
        """What a question's media look like to the tower; raises SampleError where they cannot be read."""
        clip = self._lightning.datamodule.read(entries[uid])
        if clip.media is None:
            raise SampleError(clip.error or "no media")
        (sample,) = (each for each in clip.samples if each.uid == uid)
        shown = [clip.media[part] for part in in_order(sample, clip) if isinstance(part, int)]
        return [pictures_of(self.loaded.media, frames) for frames in shown]

    def record(
        self, arm: Arm, answer: Answer, likelihoods: Likelihoods | None = None, reused: Answer | None = None
    ) -> Record:
        """What is kept of one answer, and of the one with the tokens of the first question."""
        sample = answer.sample
        about: dict[str, Any] = {
            "uid": sample.uid,
            "cluster": sample.cluster,
            "arm": arm.name,
            "arm_hash": arm.hash,
            "type": sample.type,
            "question": sample.question,
            "expected": list(sample.answers),
            "options": list(sample.options),
            "pipeline": arm.pipeline.describe(),
            "positions": [compressor.positions for compressor in arm.pipeline.active],
            "controls": self.controls.get(arm.name, []),
            "frames_by_question": FRAME_SCORES in arm.pipeline.needs(),
        }
        if answer.trace is None:
            wrong = False if sample.answers else None
            return Record(**about, status="failed", error=answer.error, correct=wrong)
        timed, (choice, correct) = self.timed.get((arm.name, sample.uid)), _judge(answer)
        return Record(
            **about,
            answer=answer.text,
            choice=choice,
            correct=correct,
            **token_counts(answer.trace),
            flops=price(answer.trace, self.costs),
            kv_cache_bytes=kv_cache_bytes(answer.trace, self.costs, self.loaded.model.dtype.itemsize),
            batch_size=self.loaded.batch_size,
            **(timed.measured if timed else {}),
            divergence=likelihoods and likelihoods.divergence,
            option_likelihoods=list(likelihoods.options) if likelihoods else [],
            answer_reused=reused and reused.text,
            correct_reused=_judge(reused)[1] if reused else None,
        )

    @property
    def run_folder(self) -> RunFolder:
        """Where records go."""
        for callback in self._lightning.callbacks:
            if isinstance(callback, RunFolder):
                return callback
        raise UserError("trainer.callbacks holds no RunFolder: records would have nowhere to go")

    @property
    def _lightning(self) -> Any:
        """Lightning's Trainer with the attributes that it sets on itself outside its class's sight."""
        return self.trainer

    def _name_arms(self) -> list[Arm]:
        """Arms with their hashes: pipeline, weights, precision, seed, answer length and frames decide an answer."""
        data = self._lightning.datamodule
        settings = {key: value for key, value in asdict(self.settings).items() if key != "batch_size"}
        common = {
            "mllm": settings,
            "weights": weights_fingerprint(self.loaded.model),
            "seed": self.seed,
            "frames": (data.num_frames, data.sampling),
        }
        return [
            Arm(name, pipeline, fingerprint({**common, "pipeline": pipeline.describe()}))
            for name, pipeline in self.pipelines.items()
        ]

    def _entries_to_ask(self, stage: str) -> list[ClipEntry]:
        """What is left of the data within the trainer's limit on batches."""
        data, limit = self._lightning.datamodule, LIMITS[stage]
        entries, most = data.entries(SPLITS[stage]), getattr(self.trainer, limit)
        if not entries:
            raise UserError(f"data: {type(data).__name__} has no question for `tokenlab {stage}`")
        batches = ceil(len(entries) / data.batch_size)
        if isinstance(most, float):
            most = int(most * batches)
        if not most:
            raise UserError(f"trainer.{limit} leaves none of {batches} batches: nothing would be asked; give 1 or more")
        entries = entries[: most * data.batch_size]
        if self.only is None:
            return entries
        some = [replace(each, samples=tuple(s for s in each.samples if s.uid in self.only)) for each in entries]
        return [each for each in some if each.samples]


def _judge(answer: Answer) -> tuple[str | None, bool | None]:
    """The option that an answer chooses, where there are some, and whether it is right, where somebody knows."""
    choice = read_choice(answer.text, answer.sample.options) if answer.sample.options else None
    return choice, is_right(answer.text, choice, answer.sample)


LIMITS = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}
"""The trainer's setting that says how much of the data each of Lightning's commands reads."""


def check_trainer(trainer: Trainer) -> None:
    """Raises UserError where a trainer would change answers behind the arms' hashes, or cannot measure."""
    if trainer.world_size > 1:
        raise UserError(f"trainer.devices={trainer.world_size}: a run is measured on one device; set it to 1")
    plugin = trainer.precision_plugin
    if type(plugin) is not Precision:
        raise UserError(
            f"trainer.precision is {plugin.precision!r} ({type(plugin).__name__}), but the precision of a frozen model "
            "is model.mllm.dtype: leave trainer.precision out"
        )
