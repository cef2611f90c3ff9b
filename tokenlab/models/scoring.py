"""How likely given answers are: all options of a question behind one prefill of its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from tokenlab.errors import SampleError, UserError
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
        trace: What was done to the prompt; every option's tokens but the last are decode steps.
    """

    log_likelihoods: tuple[float, ...]
    lengths: tuple[int, ...]
    trace: Trace


@torch.inference_mode()
def score(loaded: LoadedModel, request: Request, options: Sequence[str]) -> Scores:
    """Scores options as answers to one reduced request.

    Raises SampleError for an empty option, and UserError where the LLM attends through sliding windows.

    Likelihoods are of the model's own logits: no penalty of its generation config touches them.
    """
    if any(windows_of(loaded.config)):
        raise UserError("score: caches of sliding windows cannot go back to where a prompt ended; use answers")
    tokenizer = loaded.processor.tokenizer
    ids = [tokenizer(option, add_special_tokens=False)["input_ids"] for option in options]
    if not ids or not all(ids):
        raise SampleError(f"options {list(options)} cannot be scored: there must be some, and none may be empty")
    with ExitStack() as stack:
        arguments, hooks = loaded.llm_arguments([_with_positions(loaded, request)], stack)
        decoding = _Decoding(loaded, arguments, hooks)
        log_likelihoods = tuple(decoding.log_likelihood(option) for option in ids)
    lengths = tuple(map(len, ids))
    return Scores(log_likelihoods, lengths, request.trace + _trace(loaded, request, hooks, lengths))


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
        """Of one option; afterwards everything is as it was behind the prompt."""
        likelihoods, total = self.behind_prompt, 0.0
        for step, token in enumerate(option, start=1):
            total += float(likelihoods[token])
            if step < len(option):
                likelihoods = self._step(token, step)
        self._rewind(len(option) - 1)
        return total

    def _step(self, token: int, step: int) -> Float[Tensor, " v"]:
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
