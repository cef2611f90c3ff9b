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
    """Raises SampleError where a method raises: by ValueError it says why it cannot act, all else is its fault."""
    try:
        yield
    except (UserError, SampleError):
        raise
    except ValueError as error:
        raise SampleError(f"{method} cannot act on this medium: {error}") from error
    except Exception as error:  # whatever somebody's method raises
        raise SampleError(f"{method} fails on this medium: {type(error).__name__}: {first_line(error)}") from error
