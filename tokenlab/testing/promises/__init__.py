"""What every compressor promises, as checks: tests hold all that are registered to them, `tokenlab check` anybody's."""

from tokenlab.testing.promises import anywhere, grid, llm, planted, tower
from tokenlab.testing.promises.base import PROMISES, BrokenPromise, Build, Promise, promises_of

__all__ = [
    "PROMISES",
    "BrokenPromise",
    "Build",
    "Promise",
    "anywhere",
    "grid",
    "llm",
    "planted",
    "promises_of",
    "tower",
]
