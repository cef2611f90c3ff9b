"""How likely answers are: all options of a question, and each word of an answer, behind one prefill of its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import DynamicCache, PretrainedConfig

from tokenlab.compressors.pipeline import Pipeline
from tokenlab.data.samples import Clip, Sample
from tokenlab.errors import SampleError, UserError
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.hf import CACHE, new_cache, windows_of
from tokenlab.models.llm.layer_hooks import DecoderHooks
from tokenlab.models.llm.state import llm_trace
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.request import Request
from tokenlab.trace import Trace


@dataclass(frozen=True)
class Scores:
    """What a pipeline makes of a question's options.

    Attributes:
        log_likelihoods: Of each option as a whole, the sum over its tokens.
        lengths: Tokens of each option.
        next_tokens: Log-likelihoods of the whole vocabulary before each token of an answer that was read on.
        trace: What was done to the prompt; every option's tokens but the last are decode steps, the answer's too.
    """

    log_likelihoods: tuple[float, ...]
    lengths: tuple[int, ...]
    next_tokens: Float[Tensor, "a v"]
    trace: Trace


@dataclass(frozen=True)
class OwnAnswer:
    """What a pipeline answers by its likelihoods alone.

    Attributes:
        ids: Of each place the likeliest token, up to the end of sequence.
        next_tokens: Log-likelihoods of the whole vocabulary before each of them.
    """

    ids: tuple[int, ...]
    next_tokens: Float[Tensor, "a v"]


@torch.inference_mode()
def score(loaded: LoadedModel, request: Request, options: Sequence[str], answer: Sequence[int] = ()) -> Scores:
    """Scores options as answers to one reduced request, and reads an answer on token by token.

    Likelihoods are of the model's own logits: no penalty of its generation config touches them.

    Args:
        loaded: The model.
        request: The question, its tokens reduced.
        options: Texts, each scored as a whole.
        answer: Token ids, as another pipeline may have given them.

    Raises:
        SampleError: If an option is empty, or nothing is to be scored.
        UserError: If the LLM attends through sliding windows.
    """
    check_windows(loaded.config)
    tokenizer = loaded.processor.tokenizer
    ids = [tokenizer(option, add_special_tokens=False)["input_ids"] for option in options]
    if not all(ids) or not (ids or answer):
        raise SampleError(f"options {list(options)} cannot be scored: there must be some, and none may be empty")
    with ExitStack() as stack:
        arguments, hooks = loaded.llm_arguments([_with_positions(loaded, request)], stack)
        decoding = _Decoding(loaded, arguments, hooks)
        log_likelihoods = tuple(decoding.log_likelihood(option) for option in ids)
        next_tokens = decoding.read_on(answer)
    lengths = [len(tokens) for tokens in (*ids, answer) if tokens]
    trace = request.trace + _trace(loaded, request, hooks, lengths)
    return Scores(log_likelihoods, tuple(map(len, ids)), next_tokens, trace)


@torch.inference_mode()
def own_answer(loaded: LoadedModel, request: Request) -> OwnAnswer:
    """Answers one request by its likelihoods, without `generate`."""
    check_windows(loaded.config)
    with ExitStack() as stack:
        arguments, hooks = loaded.llm_arguments([_with_positions(loaded, request)], stack)
        decoding, ids = _Decoding(loaded, arguments, hooks), list[int]()
        rows = [decoding.behind_prompt]
        while True:
            ids.append(int(rows[-1].argmax()))
            if len(ids) == loaded.settings.max_new_tokens or loaded.is_end(ids[-1]):
                return OwnAnswer(tuple(ids), torch.stack(rows))
            rows.append(decoding.step(ids[-1], len(ids)))


def divergence(ours: Float[Tensor, "a v"], reference: Float[Tensor, "a v"]) -> float:
    """Measures how far next-token distributions are from the reference's, in nats a token (Kullback & Leibler 1951)."""
    return float(kl_div(ours.double(), reference.double(), reduction="none", log_target=True).sum(-1).mean())


def check_windows(config: PretrainedConfig, asked_by: str = "score") -> None:
    """Raises UserError where the LLM attends through sliding windows."""
    if any(windows_of(config)):
        raise UserError(f"{asked_by}: caches of sliding windows cannot go back to where a prompt ended; use answers")


@dataclass(frozen=True)
class Likelihoods:
    """How likely a question's answers are to an arm.

    Attributes:
        divergence: Of its next tokens from the untouched model's, along that one's answer: nats a token.
        options: Log-likelihood of each option's letter; empty where there are none.
    """

    divergence: float
    options: tuple[float, ...]


@dataclass(frozen=True)
class ScoredQuestion:
    """One question about a clip whose likelihoods are compared, arm by arm, with the untouched model's."""

    loaded: LoadedModel
    clip: Clip
    sample: Sample
    cache: EncodeCache
    reference: OwnAnswer

    @classmethod
    def begin(cls, loaded: LoadedModel, clip: Clip, sample: Sample, cache: EncodeCache) -> ScoredQuestion | None:
        """Lets the untouched model answer; None where it cannot."""
        try:
            reference = own_answer(loaded, loaded.prepare(clip, sample, Pipeline(), cache))
        except SampleError:
            return None
        return cls(loaded, clip, sample, cache, reference)

    def likelihoods(self, pipeline: Pipeline) -> Likelihoods | None:
        """What a pipeline makes of the untouched model's answer, and of the options; None where it cannot read on."""
        letters = ascii_uppercase[: len(self.sample.options)]
        try:
            request = self.loaded.prepare(self.clip, self.sample, pipeline, self.cache)
            scores = score(self.loaded, request, letters, self.reference.ids)
        except SampleError:
            return None
        return Likelihoods(divergence(scores.next_tokens, self.reference.next_tokens), scores.log_likelihoods)


def _with_positions(loaded: LoadedModel, request: Request) -> Request:
    """The request with position ids of its own: what follows the prompt continues at them."""
    if request.prompt.positions is not None:
        return request
    prompt = request.prompt.layout.prompt
    positions = loaded.positions(prompt, request.prompt.encoded)
    return replace(request, prompt=replace(request.prompt, positions=positions, original_positions=positions))


def _trace(loaded: LoadedModel, request: Request, hooks: DecoderHooks | None, lengths: Sequence[int]) -> Trace:
    """What happened inside the LLM: every option begins where the prompt ends."""
    trace = llm_trace(hooks and hooks.prompts[0], sum(lengths) - len(lengths) + 1)
    if hooks is not None and hooks.plan.cache_methods:
        return trace
    cached = trace.cached_tokens or trace.attention_tokens or (len(request.prompt.layout),) * len(loaded.decoder.layers)
    steps = [step for length in lengths for step in range(length - 1)]
    return replace(trace, visible_tokens=tuple(tuple(tokens + step for tokens in cached) for step in steps))


class _Decoding:
    """One prompt behind its prefill, from which every option begins anew.

    Plain forwards get a mask of ones: without one, transformers takes gaps in the positions for packed documents.
    """

    def __init__(self, loaded: LoadedModel, arguments: dict[str, Any], hooks: DecoderHooks | None) -> None:
        self.model, self.hooks = loaded.model, hooks
        self.kv_cache: DynamicCache = new_cache(self.model)
        self.mask = arguments["attention_mask"]
        self.last_position = arguments["position_ids"][..., -1:]
        self.behind_prompt = self._forward(**arguments)

    def log_likelihood(self, option: Sequence[int]) -> float:
        """Of one option as a whole."""
        return sum(float(row[token]) for row, token in zip(self.read_on(option), option, strict=True))

    def read_on(self, answer: Sequence[int]) -> Float[Tensor, "a v"]:
        """Before each token of an answer, what may follow; afterwards everything is as it was behind the prompt."""
        rows = [self.behind_prompt, *(self.step(token, step) for step, token in enumerate(answer[:-1], start=1))]
        self._rewind(len(rows) - 1)
        return torch.stack(rows)[: len(answer)]

    def step(self, token: int, step: int) -> Float[Tensor, " v"]:
        """Log-likelihoods of what follows one more token."""
        ids = torch.tensor([[token]], device=self.mask.device)
        mask = torch.cat([self.mask, self.mask.new_ones(1, step)], dim=1)
        return self._forward(input_ids=ids, attention_mask=mask, position_ids=self.last_position + step)

    def _forward(self, **arguments: Any) -> Float[Tensor, " v"]:
        output: Any = self.model(**arguments, use_cache=True, logits_to_keep=1, **{CACHE: self.kv_cache})
        return output.logits[0, -1].float().log_softmax(-1)

    def _rewind(self, steps: int) -> None:
        if steps:
            self.kv_cache.crop(-steps)
        if self.hooks is not None:
            self.hooks.rewind(steps)
