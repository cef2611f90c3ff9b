"""What a method is shown of a golden case, and what it decides, through the stage driver that `validate` uses."""

import torch
from torch import Tensor

from tokenlab.compressors import Pipeline
from tokenlab.compressors.base import SampleNoise, TokenCompressor
from tokenlab.models.vision.grid_stage import reduce_on_grid
from tokenlab.reduction import Reduction
from tokenlab.tokens import Evidence, VisualTokens


def on_grid(values: Tensor, frames: int = 1, rows: int = 1, evidence: dict[Evidence, Tensor] | None = None):
    """Tokens in raster order as a medium: of one row a frame, where a case names no grid."""
    return VisualTokens.from_grid(values.reshape(frames, rows, -1, values.shape[-1]), evidence)


def decide_on_grid(method: TokenCompressor, tokens: VisualTokens, question: str = "what ?") -> Reduction:
    """The decision about one medium, its slots as they reach the LLM; a method that is off keeps all."""
    _, decisions = reduce_on_grid([tokens], question, Pipeline((method,)), SampleNoise(0, "golden"), None)
    return decisions[0][1][0] if decisions else Reduction.identity(tokens.num_tokens)


def mask_of(reduction: Reduction) -> Tensor:
    """Which tokens stay."""
    return torch.zeros(reduction.num_inputs, dtype=torch.bool).index_fill(0, reduction.anchor, True)
