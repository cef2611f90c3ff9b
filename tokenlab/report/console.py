"""Where tables and progress are printed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

Thing = TypeVar("Thing")


def progress_console() -> Console:
    """Where progress is shown: on standard error, for the table alone goes to standard output; not in notebooks."""
    return Console(stderr=True, force_jupyter=False)


def followed(things: Iterable[Thing], what: str, total: int | None = None) -> Iterable[Thing]:
    """The things, behind a progress bar where somebody watches."""
    console = progress_console()
    return track(things, what, total, console=console, transient=True, disable=not console.is_terminal)


class Terminal(Console):
    """Rich's console on stdout, which leaves it to its caller what happens when nobody reads any more."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, force_jupyter=False, **settings)  # in notebooks, text as in a shell

    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError in whose handler Rich calls this."""
        raise
