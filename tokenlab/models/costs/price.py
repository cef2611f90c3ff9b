"""The price of a trace: what one sample and one arm cost in FLOPs, by their own lengths and steps."""

from __future__ import annotations

from collections.abc import Sequence

from tokenlab.metrics.record import Flops
from tokenlab.models.costs.flops import ModelCosts, literature_flops
from tokenlab.trace import Trace


def price(trace: Trace, costs: ModelCosts) -> Flops:
    """Prices each part of the way that a sample went; the first token comes out of the prefill."""
    grids = (grid[1:] for grid in trace.grids)
    are_images = (medium.is_image for medium in trace.media)
    media = list(zip(trace.passes, grids, trace.tower_tokens, are_images, strict=True))
    everywhere = (trace.prefill_tokens,) * costs.num_layers
    attention_tokens, mlp_tokens = trace.attention_tokens or everywhere, trace.mlp_tokens or everywhere
    return Flops(
        tower=sum(costs.tower(*medium) for medium in media),
        projector=sum(costs.projector(*medium) for medium in media) + costs.projector_tokens(trace.projector_tokens),
        auxiliary=costs.auxiliary(
            trace.auxiliary_frames, trace.auxiliary_scored, trace.auxiliary_text, trace.auxiliary_pooled
        ),
        prefill=costs.prefill_layers(
            attention_tokens, mlp_tokens, rope_tokens=trace.prefill_tokens + trace.rope_recomputed
        ),
        method=trace.method_flops,
        masked=costs.masked_flops(attention_tokens),
        literature=literature_flops(costs.text, attention_tokens),
        by_layer=tuple(costs.layer_flops(attention_tokens, mlp_tokens)),
        decode=_decode(trace, costs, trace.cached_tokens or attention_tokens),
    )


def kv_cache_bytes(trace: Trace, costs: ModelCosts, bytes_of_number: int) -> int:
    """Size of the keys and values that the LLM holds of the prompt behind its prefill."""
    everywhere = (trace.prefill_tokens,) * costs.num_layers
    return bytes_of_number * costs.cache_elements(trace.cached_tokens or trace.attention_tokens or everywhere)


def _decode(trace: Trace, costs: ModelCosts, cached: Sequence[int]) -> int:
    """All tokens of the answer behind the first."""
    steps = trace.generated_tokens - 1
    recomputed = costs.rope_flops(trace.rope_recomputed_per_step * steps)
    if not trace.visible_tokens:
        return recomputed + costs.decode_layers(cached, steps)
    return recomputed + sum(costs.decode_step(visible) for visible in trace.visible_tokens[:steps])
