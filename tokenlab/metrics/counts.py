"""What a record says of tokens, counted on the trace of what was done."""

from __future__ import annotations

from typing import Any

from tokenlab.trace import Trace


def token_counts(trace: Trace) -> dict[str, Any]:
    """A record's token counts, all read off the trace of what was applied."""
    return {
        "visual_tokens_in": trace.visual_tokens_in,
        "visual_tokens_out": trace.visual_tokens_out,
        "tokens_after": _tokens_after(trace),
        "frames_encoded": sum(time_steps for time_steps, _, _ in trace.grids),
        "prompt_tokens": trace.prompt_tokens,
        "prefill_tokens": trace.prefill_tokens,
        "generated_tokens": trace.generated_tokens,
        "tokens_hash": trace.choice,
    }


def _tokens_after(trace: Trace) -> list[tuple[str, int]]:
    """Visual tokens left after each method; one that acts at many points counts once, when it is done."""
    counts = {applied.compressor: trace.visual_tokens_after(k) for k, applied in enumerate(trace.reductions, 1)}
    return list(counts.items())
