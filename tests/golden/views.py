"""What a method is shown of a golden case, and what it decides, through the stage driver that `validate` uses."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenlab.compressors import LayerReduction, LayerView, Moment, Pipeline
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
    return decisions[0].reductions[0] if decisions else Reduction.identity(tokens.num_tokens)


def in_llm(
    method: LayerReduction,
    hidden: Tensor,
    visual: Tensor,
    point: tuple[int, Moment],
    evidence: dict[Evidence, Any] | None = None,
    num_layers: int = 32,
    **medium: Any,
) -> LayerView:
    """What a method sees of a sequence at one point; what the medium is besides its tokens, where a case says it."""
    places = torch.stack([torch.zeros_like(visual), torch.arange(len(visual)), torch.zeros_like(visual)], dim=1)
    values = torch.empty(len(visual), 0)
    initial = medium.pop("initial", len(visual))
    medium = {"places": places, "grid": (1, len(visual), 1), **medium}
    layer, moment = point
    return LayerView(
        layer=layer,
        num_layers=num_layers,
        moment=moment,
        hidden=hidden,
        visual=visual,
        medium=VisualTokens(values, **medium),
        initial=initial,
        text_after=(int(visual[-1]) + 1, len(hidden)),
        evidence=evidence or {},
        generator=SampleNoise(0, "golden").generator(0, 0, method.name),
    )


def in_sequence(reduction: Reduction, view: LayerView) -> Tensor:
    """Which tokens of the sequence are left, in order."""
    goes = torch.ones(len(view.visual), dtype=torch.bool)
    goes[reduction.settle("raster").anchor] = False
    left = torch.ones(len(view.hidden), dtype=torch.bool)
    left[view.visual[goes]] = False
    return left.nonzero()[:, 0]


@dataclass
class GivenRows:
    """Attention of which a case holds rows instead of queries and keys.

    Attributes:
        weights: Head by head, what each of some tokens pays all of the sequence.
        by: Those tokens.
    """

    weights: Tensor
    by: list[int]
    keys: Tensor | None = None

    def rows(self, by: Tensor, among: Tensor | None = None) -> Tensor:
        assert among is None
        return self.weights[:, [self.by.index(token) for token in by.tolist()]]

    def received(self, by, heads: str = "mean", over: str = "mean", among: Tensor | None = None) -> Tensor:
        weights = self.rows(torch.as_tensor(by), among)
        weights = {"mean": weights.mean(0), "max": weights.amax(0)}[heads]
        return {"mean": weights.mean(0), "max": weights.amax(0), "sum": weights.sum(0)}[over]


def mask_of(reduction: Reduction) -> Tensor:
    """Which tokens stay."""
    return torch.zeros(reduction.num_inputs, dtype=torch.bool).index_fill(0, reduction.anchor, True)
