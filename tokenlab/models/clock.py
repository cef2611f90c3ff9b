"""The clock of a call of `generate`: when the prefill ends and decoding begins."""

from __future__ import annotations

import time

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from tokenlab.trace import synchronise


class PrefillClock(LogitsProcessor):
    """Notes when the first token's logits are there; changes nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stopped = device, 0.0

    def __call__(self, input_ids: Int[Tensor, "b s"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Stops the clock at the first call."""
        if not self.stopped:
            synchronise(self.device)
            self.stopped = time.perf_counter()
        return scores
