"""From decoded frames to a token grid with evidence: one run of the vision tower."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from tokenlab.compressors.evidence import TokenEmbeddings, TowerAttention
from tokenlab.data.samples import Frames
from tokenlab.errors import SampleError
from tokenlab.models.families import Family
from tokenlab.models.probes import cls_attention, mean_attention, probed
from tokenlab.models.prompts import PromptWriter
from tokenlab.tensors import Evidence, VisualTokens


@dataclass(frozen=True)
class Encoded:
    """One clip after tower and projector, for one choice of its frames.

    Attributes:
        features: The medium's tokens in prompt order, separators included.
        tokens: Its grid tokens, with the evidence read from the tower.
        replacements: What the prompt's placeholder words expand to.
        milliseconds: Processor, tower and projector.
        evidence_milliseconds: What each piece of evidence took besides; charged to the arms that need it.
    """

    frames: Frames
    features: Float[Tensor, "n d"]
    tokens: VisualTokens
    replacements: list[str]
    milliseconds: float
    evidence_milliseconds: dict[Evidence, float]


def synchronise(device: torch.device) -> None:
    """Waits until the device is done, so that a clock reads the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def encode(
    model: PreTrainedModel, writer: PromptWriter, family: Family, frames: Frames, needs: frozenset[Evidence]
) -> Encoded:
    """One clip through processor, tower and projector; raises SampleError if what comes out is not finite."""
    started = time.perf_counter()
    pixels, replacements = writer.pixels(frames)
    probes = [_TowerProbe(model, family, need) for need in needs if isinstance(need, TowerAttention)]
    with ExitStack() as stack:
        for probe in probes:
            stack.enter_context(probed(family.attention_of(model, probe.need.layer), probe))
        features = family.encode(model, pixels.to(model.device, model.dtype))
    synchronise(model.device)
    if not bool(torch.isfinite(features).all()):
        raise SampleError("the vision tower's output is not finite (NaN or infinite pixels?)")
    evidence: dict[Evidence, Tensor] = {probe.need: probe.on_grid() for probe in probes}
    spent: dict[Evidence, float] = {probe.need: probe.milliseconds for probe in probes}
    grid = features[: features.shape[0] - family.separators]
    if (aligned := TokenEmbeddings("llm")) in needs:
        evidence[aligned] = grid
    shape = (len(frames.numbers), writer.rows, writer.columns)
    tokens = VisualTokens.from_grid(grid.reshape(*shape, -1), evidence)
    elapsed = 1000 * (time.perf_counter() - started)
    return Encoded(frames, features, tokens, replacements, elapsed - sum(spent.values()), spent)


class _TowerProbe:
    """Listens to one attention layer of the tower and keeps what one piece of evidence asks for."""

    def __init__(self, model: PreTrainedModel, family: Family, need: TowerAttention) -> None:
        self.model, self.family, self.need = model, family, need
        self.from_cls = family.has_cls and need.query != "mean"
        self.read: Callable[..., Tensor] = cls_attention if self.from_cls else mean_attention
        self.attention: list[Tensor] = []
        self.milliseconds = 0.0

    def __call__(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Keeps the attention each token receives."""
        synchronise(query.device)
        started = time.perf_counter()
        self.attention.append(self.read(query, key, scaling))
        synchronise(query.device)
        self.milliseconds += 1000 * (time.perf_counter() - started)

    def on_grid(self) -> Float[Tensor, " n"]:
        """The attention on the token grid, brought there like the tokens."""
        patches = torch.cat(self.attention)[:, 1 if self.family.has_cls else 0 :, None]
        return self.family.to_grid(self.model, patches).flatten()
