"""Errors a user can mend: shown as one line, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """What was asked for cannot be done; the message names the key, the value and the way out."""


class SampleError(Exception):
    """One sample cannot be answered; it is recorded as failed and the run goes on."""


def first_line(error: Exception) -> str:
    """What an error says, in one line; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def failing_sample(method: str) -> Iterator[None]:
    """Raises SampleError where a method raises ValueError: it cannot act on this medium, and says why."""
    try:
        yield
    except ValueError as error:
        raise SampleError(f"{method} cannot act on this medium: {error}") from error
