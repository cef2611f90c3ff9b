"""tokenlab: an honest bench for learning-free visual-token reduction on frozen multimodal LLMs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenlab.compressors.base import list_compressors
    from tokenlab.compressors.pipeline import Pipeline
    from tokenlab.models.compress import compress
    from tokenlab.models.frames import select_frames
    from tokenlab.reduction import Reduction

__version__ = "0.1.0"

__all__ = ["Pipeline", "Reduction", "__version__", "compress", "list_compressors", "select_frames"]

_HOMES = {
    "Pipeline": "tokenlab.compressors",
    "Reduction": "tokenlab.reduction",
    "compress": "tokenlab.models.compress",
    "list_compressors": "tokenlab.compressors",
    "select_frames": "tokenlab.models.frames",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: torch and transformers are slow to come."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
