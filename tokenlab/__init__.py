"""tokenlab: an honest bench for learning-free visual-token reduction on frozen multimodal LLMs."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`tokenlab.compress`, which brings transformers with it, is only imported when it is asked for."""
    if name == "compress":
        from tokenlab.models.compress import compress

        return compress
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
