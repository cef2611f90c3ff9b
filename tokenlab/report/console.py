"""Where tables are printed."""

from __future__ import annotations

from typing import Any

from rich.console import Console


class Terminal(Console):
    """Rich's console on stdout, which leaves it to its caller what happens when nobody reads any more."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, **settings)

    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError in whose handler Rich calls this."""
        raise
