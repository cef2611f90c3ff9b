"""Golden vectors through the public classes: a function a folder, called by its name."""

import inspect
from collections.abc import Callable

from tests.golden import Case
from tests.golden.adapters import grid, llm, tower

ADAPTERS: dict[str, Callable[[Case], None]] = {
    name: adapter
    for module in (tower, grid, llm)
    for name, adapter in inspect.getmembers(module, inspect.isfunction)
    if adapter.__module__ == module.__name__ and adapter.__annotations__.get("return", 0) is None
}
"""By folder."""
