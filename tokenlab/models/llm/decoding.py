"""What kinds of decoding reduced prompts can have: one sequence a prompt, a growing cache, the prompt read at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenlab.errors import UserError

REFUSED = {
    "cache_implementation": "a cache of this kind ({value!r}), but layers that read fewer tokens need one that grows",
    "prefill_chunk_size": "chunked prefill ({value}), but methods look at the whole prompt",
    "prompt_lookup_num_tokens": "assisted decoding (prompt lookup), which feeds several tokens at a time",
    "assistant_early_exit": "assisted decoding (early exit), which feeds several tokens at a time",
    "penalty_alpha": "contrastive search, which goes back over the cache",
    "dola_layers": "DoLa, which reads the layers side by side",
}
"""What cannot be had with reduced prompts, by the key of a generation config; why, in words."""

GROWING = (None, "dynamic")


def check_decoding(config: Mapping[str, Any], where: str) -> None:
    """Raises UserError for decoding that reduced prompts cannot have; `where` names what asks for it."""
    if config.get("use_cache") is False:
        raise UserError(
            f"{where} asks for use_cache=False: without a cache transformers takes gaps in the positions of a reduced "
            "prompt for packed documents, and answers differently in silence; take use_cache out"
        )
    for key, reason in REFUSED.items():
        value = config.get(key)
        if value is not None and not (key == "cache_implementation" and value in GROWING):
            raise UserError(f"{where} asks for {reason.format(value=value)}; take {key} out")


def check_call(config: Mapping[str, Any], where: str) -> None:
    """The same for a call of `generate` that is somebody else's, which may ask for beams as well."""
    check_decoding(config, where)
    for key in ("num_beams", "num_return_sequences"):
        if (config.get(key) or 1) > 1:
            raise UserError(f"{where} asks for {key}={config[key]}, but prompts are reduced one sequence each")
