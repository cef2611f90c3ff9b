"""Media as files: what they may be called, where they may lie, and what is wrong with one that is no file."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath

from tokenlab.errors import SampleError


class MediaError(SampleError):
    """A medium that cannot be read; the message is one line and names the file."""


def confine(root: str | os.PathLike[str], name: str, kind: str = "video") -> Path:
    """Finds the file that a name means inside a root folder.

    Raises:
        MediaError: If the name is absolute, climbs with `..` or leaves the root through a symbolic link.
    """
    try:
        base = Path(root).resolve()
        path = (base / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself; a NUL or a lone surrogate in the name
        raise MediaError(f"{kind} {name!r} is not the name of a file") from error
    climbs = PurePath(name).is_absolute() or ".." in PurePath(name).parts
    if climbs or path == base or not path.is_relative_to(base):
        raise MediaError(f"{kind} {name!r} is not a file inside {str(base)!r}")
    return path


def check_file(path: Path, kind: str = "video") -> None:
    """Raises MediaError for what is no file, or an empty one."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {reason_of(error)}"
        raise MediaError(f"{kind} {str(path)!r} {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{kind} {str(path)!r} is {'a directory' if path.is_dir() else 'not a file'}")
    if status.st_size == 0:
        raise MediaError(f"{kind} {str(path)!r} is empty (0 bytes)")


def reason_of(error: Exception) -> str:
    """What the system says of a file, without its own number and path."""
    return (getattr(error, "strerror", None) or str(error)).replace("\n", " ")
