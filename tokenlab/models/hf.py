"""Names of transformers that are no public API and that all models share; a family's own paths stand in its row."""

from __future__ import annotations

import inspect

from transformers.masking_utils import create_causal_mask

TESTED = ("5.23.0", "5.24.0")
"""The transformers releases on which the test suite ran."""

CACHE_NAMES = ("cache", "past_key_values")
"""What a decoder's call, a layer's call and `generate` name the KV cache: since 5.24, and before."""

CACHE = next(name for name in CACHE_NAMES if name in inspect.signature(create_causal_mask).parameters)
"""The name of the installed release."""
