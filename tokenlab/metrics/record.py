"""The record: one sample x one arm. Everything a report prints can be recomputed from the records."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Flops:
    """FLOPs (2 x multiply-adds) of one sample, of its own lengths and steps, without padding.

    Attributes:
        tower: The vision tower.
        projector: Everything between tower and LLM.
        auxiliary: Further encoders, where the arm uses one.
        prefill: The LLM reading the prompt.
        decode: The answer's tokens behind the first.
        method: The methods' own products: evidence and decisions.
        masked: Of the prefill, what attention spends on pairs that the causal mask hides; counters count it, kernels
            that know the mask skip it.
        literature: The prefill by the formula that papers print; no part of the sum.
        by_layer: Of the prefill, each layer's.
    """

    tower: int = 0
    projector: int = 0
    auxiliary: int = 0
    prefill: int = 0
    decode: int = 0
    method: int = 0
    masked: int = 0
    literature: int = 0
    by_layer: tuple[int, ...] = ()

    @property
    def model(self) -> int:
        """What the models do, the method's own work apart."""
        return self.tower + self.projector + self.auxiliary + self.prefill + self.decode

    @property
    def total(self) -> int:
        """All parts, as torch's counter has them."""
        return self.model + self.method

    @property
    def causal(self) -> int:
        """All parts without the pairs that the causal mask hides."""
        return self.total - self.masked


@dataclass(frozen=True)
class Milliseconds:
    """Wall time of one sample, answered by itself with nothing at hand that another arm or question has computed.

    Attributes:
        file: Reading and decoding the media.
        processing: The processor's work on frames.
        tower: Vision tower and projector.
        auxiliary: Further encoders, where the arm uses one.
        decide: The methods' decisions, and what is computed to show them evidence; inside tower and LLM, too.
        apply: Carrying the decisions out.
        prompt: Writing the prompt, and whatever else no stage claims.
        prefill: The LLM reading the prompt.
        decode: The answer's tokens behind the first.
        steps: Each decode step, decisions included.
    """

    file: float = 0.0
    processing: float = 0.0
    tower: float = 0.0
    auxiliary: float = 0.0
    decide: float = 0.0
    apply: float = 0.0
    prompt: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    steps: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        """From the file to the answer: all stages."""
        before = self.file + self.processing + self.tower + self.auxiliary
        return before + self.decide + self.apply + self.prompt + self.prefill + self.decode


@dataclass(frozen=True)
class Record:
    """One sample x one arm, written to `records.jsonl` the moment it exists.

    Attributes:
        uid: The sample; `cluster` is its video.
        arm: The arm's name; `arm_hash` a hash of everything that decides its answers.
        status: `failed` records carry `error`, count as wrong and are reported.
        expected: Each answer that is right; empty where nobody knows. Letters where there are options.
        options: What there was to choose from; `choice` is the letter that the answer chooses, None for no choice.
        correct: None where nobody knows what is right.
        pipeline: The arm's compressors with all their parameters: `[{"topic": {"retention_ratio": 0.5, ...}}]`.
        controls: Arms of the run that control for this one.
        positions: Position policy of each step of the pipeline, in order; empty for the untouched model.
        tokens_after: Visual tokens left after each step of the pipeline: `[["first", 256], ["second", 64]]`.
        prompt_tokens: Length of the sequence the untouched model would read.
        prefill_tokens: Length of the sequence the LLM read.
        frames_encoded: Passes of the vision tower: frames, or steps of a few frames taken together.
        generated_tokens: Tokens produced, end of sequence included.
        kv_cache_bytes: Keys and values of the prompt that the LLM holds when it begins to answer.
        peak_memory_bytes: Of the device while the sample was timed, weights included; None where it was not, or where
            the device cannot tell (CPU).
        batch_size: Prompts that went through the LLM together, at most.
        milliseconds: None where the sample was not timed.
        attention_kernels: Torch's operators that computed attention while the arm warmed up for its times.
        answer_alone: What the arm answered while it was timed, when the prompt went through the LLM by itself.
        frames_by_question: Whether the question decided which frames were encoded.
        divergence: Of the next tokens from the untouched model's along its answer, nats a token; None where not scored.
        option_likelihoods: Log-likelihood of each option's letter; empty where not scored.
        milliseconds_in_batches: Milliseconds a query by how many prompts like it go through the LLM together.
        answer_reused: The answer with the tokens that the arm chose for the first question about the video; None of the
            first, where that was not asked for, and where tokens are chosen inside the LLM.
        correct_reused: Whether that is right; None likewise, or where nobody knows.
        tokens_hash: The same where the same tokens of the same frames are left; empty where that is not known.
    """

    uid: str
    cluster: str
    arm: str
    arm_hash: str
    type: str
    question: str
    expected: list[str]
    status: Literal["ok", "failed"] = "ok"
    error: str | None = None
    answer: str | None = None
    options: list[str] = field(default_factory=list)
    choice: str | None = None
    correct: bool | None = None
    pipeline: list[dict[str, dict]] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)
    positions: list[str] = field(default_factory=list)
    visual_tokens_in: int = 0
    visual_tokens_out: int = 0
    tokens_after: list[tuple[str, int]] = field(default_factory=list)
    frames_encoded: int = 0
    prompt_tokens: int = 0
    prefill_tokens: int = 0
    generated_tokens: int = 0
    flops: Flops = Flops()
    kv_cache_bytes: int = 0
    peak_memory_bytes: int | None = None
    batch_size: int = 1
    milliseconds: Milliseconds | None = None
    attention_kernels: list[str] = field(default_factory=list)
    answer_alone: str | None = None
    frames_by_question: bool = False
    divergence: float | None = None
    option_likelihoods: list[float] = field(default_factory=list)
    tokens_hash: str = ""
    milliseconds_in_batches: list[tuple[int, float]] = field(default_factory=list)
    answer_reused: str | None = None
    correct_reused: bool | None = None

    @property
    def retention(self) -> float:
        """Visual tokens the LLM read / visual tokens of the untouched media."""
        return self.visual_tokens_out / self.visual_tokens_in if self.visual_tokens_in else 1.0

    @property
    def methods(self) -> list[str]:
        """Names of the arm's compressors, in order."""
        return [name for step in self.pipeline for name in step]

    @property
    def is_reduced(self) -> bool:
        """Whether any visual token is gone, be it merged into another."""
        return self.visual_tokens_out < self.visual_tokens_in

    @property
    def is_scored(self) -> bool:
        """Whether anybody knows what is right."""
        return bool(self.expected)

    @property
    def is_right(self) -> bool:
        """Whether it was answered, and rightly."""
        return self.status == "ok" and self.correct is True

    def to_json(self) -> str:
        """One line of `records.jsonl`."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """The inverse of `to_json`."""
        fields = json.loads(line)
        fields["flops"] = Flops(**fields["flops"] | {"by_layer": tuple(fields["flops"]["by_layer"])})
        if (times := fields["milliseconds"]) is not None:
            fields["milliseconds"] = Milliseconds(**times | {"steps": tuple(times["steps"])})
        for name in ("tokens_after", "milliseconds_in_batches"):
            fields[name] = [tuple(entry) for entry in fields.get(name, ())]
        return cls(**fields)
