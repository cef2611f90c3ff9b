"""How likely given answers are: all options of a question behind one prefill of its prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from tokenlab.errors import SampleError
from tokenlab.models.arrangement import arrange
from tokenlab.models.entry import Rewrite
from tokenlab.models.frozen import FrozenMLLM
from tokenlab.models.layers import reduced
from tokenlab.models.requests import Request, finished
from tokenlab.tensors import Reduction, Trace


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
def score(mllm: FrozenMLLM, request: Request, options: Sequence[str]) -> Scores:
    """Log-likelihoods of options as answers to one reduced request; raises SampleError for an empty option."""
    tokenizer = mllm.writer.processor.tokenizer
    ids = [tokenizer(option, add_special_tokens=False)["input_ids"] for option in options]
    if not ids or not all(ids):
        raise SampleError(f"options {list(options)} cannot be scored: there must be some, and none may be empty")
    rewrite = request.rewrite or _untouched(request)
    passage = None if request.passage is None else request.passage()
    with reduced(mllm.model, [rewrite], [passage] if passage else []) as rewind:
        options_fed = _Options(ids, rewind)
        handle = mllm.model.register_forward_hook(options_fed.hear)
        try:
            mllm.decode(
                [request], logits_processor=LogitsProcessorList([options_fed]), max_new_tokens=options_fed.num_calls
            )
        finally:
            handle.remove()
    lengths = tuple(map(len, ids))
    return Scores(tuple(options_fed.log_likelihoods), lengths, _trace(request, passage, lengths, mllm))


def _untouched(request: Request) -> Rewrite:
    """Nothing reduced, but in the hooks' hands, which can go back."""
    media = [each.tokens for each in request.encoded]
    kept = (Reduction.identity(tokens.num_tokens, tokens.values.device) for tokens in media)
    return Rewrite(request.prompt, arrange(request.prompt, []), tuple(tokens.values for tokens in media), tuple(kept))


def _trace(request: Request, passage: Any, lengths: Sequence[int], mllm: FrozenMLLM) -> Trace:
    trace = finished(request.trace, passage, sum(lengths) - len(lengths) + 1)
    if passage is not None and passage.cache_methods:
        return trace
    cached = trace.attention_tokens or (trace.prefill_tokens,) * mllm.config.get_text_config().num_hidden_layers
    steps = [step for length in lengths for step in range(length - 1)]
    return replace(trace, decode_sight=tuple(tuple(tokens + step for tokens in cached) for step in steps))


class _Options(LogitsProcessor):
    """Feeds `generate` one option after the other; each begins where the prompt ends.

    Likelihoods are of the model's own logits: no penalty of its generation config touches them.
    """

    def __init__(self, options: Sequence[Sequence[int]], rewind: Callable[[int], None]) -> None:
        self.rewind = rewind
        self.log_likelihoods = [0.0] * len(options)
        self.num_calls = sum(map(len, options)) - len(options) + 1
        self.feeding = self._feed(options)
        self.heard = torch.empty(0)

    def hear(self, _: nn.Module, __: tuple, output: Any) -> None:
        """Keeps what the model says of the next token."""
        self.heard = output.logits[0, -1].float().log_softmax(-1)

    def __call__(self, _: Int[Tensor, "1 s"], scores: Float[Tensor, "1 v"]) -> Float[Tensor, "1 v"]:
        """Makes the next token of an option the only one that can be chosen."""
        forced = torch.full_like(scores, float("-inf"))
        forced[:, next(self.feeding, 0)] = 0
        return forced

    def _feed(self, options: Sequence[Sequence[int]]) -> Iterator[int]:
        """The tokens that must be read: all of every option but its last."""
        behind_prompt = self.heard
        for number, option in enumerate(options):
            heard = behind_prompt
            for token in option[:-1]:
                self.log_likelihoods[number] += float(heard[token])
                yield token
                heard = self.heard
            self.log_likelihoods[number] += float(heard[option[-1]])
            self.rewind(len(option) - 1)
