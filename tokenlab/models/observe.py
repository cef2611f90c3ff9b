"""What methods could look at inside the LLM, read while prompts pass through it whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from tokenlab.compressors import Evidence, LayerReduction, LayerView, Moment, Pipeline, Reduction
from tokenlab.data.samples import Clip
from tokenlab.errors import UserError
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families.support import why_unsupported
from tokenlab.models.mllm import LoadedModel

Seen = TypeVar("Seen")


@dataclass(frozen=True, kw_only=True)
class Observer(LayerReduction):
    """Looks at every layer, between attention and MLP, and keeps all tokens."""

    name: ClassVar[str] = "observer"
    retention_ratio: float = 0.5
    looks_at: frozenset[Evidence] = frozenset()
    look: Callable[[LayerView], Any]
    found: Callable[[list[Any]], None]

    def needs(self) -> frozenset[Evidence]:
        """What it was told to look at."""
        return self.looks_at

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Every layer."""
        return [(layer, "after_attention") for layer in range(num_layers)]

    def reduce_layer(self, view: LayerView, state: list[Any] | None) -> tuple[Reduction, list[Any]]:
        """Notes what it sees, and hands all of a medium on behind the last layer."""
        seen = [*(state or []), self.look(view)]
        if view.layer == view.num_layers - 1:
            self.found(seen)
        return Reduction.identity(len(view.visual)), seen


def observe(
    loaded: LoadedModel, clips: Iterable[Clip], looks_at: frozenset[Evidence], look: Callable[[LayerView], Seen]
) -> Iterator[list[Seen]]:
    """Asks clips' questions of the untouched model and yields, medium by medium, what is seen in each of its layers.

    Args:
        loaded: The model; one token of every answer is decoded.
        clips: Whose questions.
        looks_at: Evidence of the LLM that is to be there.
        look: Makes of a layer's view what is kept of it.

    Raises:
        UserError: If the model's family has no such evidence.
    """
    waiting: list[list[Seen]] = []
    pipeline = Pipeline((Observer(looks_at=looks_at, look=look, found=waiting.append),))
    if reason := why_unsupported(loaded.family, pipeline.compressors[0]):
        raise UserError(f"model.mllm.checkpoint: {reason}")
    loaded = replace(loaded, settings=replace(loaded.settings, max_new_tokens=1))
    for clip in clips:
        for answer in loaded.answer([clip], pipeline, EncodeCache(pipeline.needs())):
            if answer.error is None:
                yield from waiting
            waiting.clear()
