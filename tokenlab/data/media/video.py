"""Videos by random access: a few candidate frames, with their true place in the file."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath

# torch comes first: where decord was loaded before it, torch's first convolution crashes the process (NVBLAS).
import torch  # noqa: F401

# isort: split
import av
import decord
import numpy as np
from av.error import FFmpegError
from jaxtyping import Float

from tokenlab.data.samples import Frames
from tokenlab.errors import SampleError, UserError

decord.logging.set_level(decord.logging.QUIET)

PLAYLISTS = frozenset({"concat", "dash", "hls", "sdp"})
"""Formats that name other files, which would be read from outside the folder that media are confined to."""

NO_SUBSTITUTES = 1e-9
"""Share of frames that decord may replace by a neighbour where the file holds fewer than it says (one still passes)."""


class MediaError(SampleError):
    """A video that cannot be read; the message is one line and names the file."""


def refuse_unmaintained_decord(version: str = decord.__version__) -> None:
    """Refuses decord 0.x, whose module has the same name as decord2's and hides it if both are installed."""
    if version.startswith("0."):
        raise UserError(
            f"decord {version} is installed together with decord2, or in its place, and both are `import decord`: "
            "run `pip uninstall -y decord decord2` and then `pip install decord2`"
        )


refuse_unmaintained_decord()


def decode(path: str | os.PathLike[str], num_frames: int) -> Frames:
    """Candidate frames, evenly spaced from the first to the last; all frames of a file that has no more than that.

    The reader lives only here: one that was opened before a fork gives wrong frames after it, without an error.

    Raises:
        MediaError: If the file is missing, empty, cut off, damaged or no video.
    """
    path = Path(path).absolute()  # no relative name can be taken for a protocol, as in "concat:a.mp4"
    kind = _probe(path)
    try:
        # One thread: DataLoader workers are the parallelism, and a reader for every core would cost memory.
        reader = decord.VideoReader(
            str(path),
            ctx=decord.cpu(0),
            num_threads=1,
            fault_tol=NO_SUBSTITUTES,  # pyright: ignore[reportArgumentType]
        )
        numbers = sample_frames(len(reader), num_frames)
        return Frames(reader.get_batch(numbers).asnumpy(), numbers, _seconds(reader, numbers))
    except (RuntimeError, decord.DECORDError, decord.DECORDLimitReachedError) as error:
        message = f"video {str(path)!r} cannot be decoded: it is damaged or cut off, or decord cannot read {kind}"
        raise MediaError(message) from error


def sample_frames(num_available: int, num_wanted: int) -> tuple[int, ...]:
    """Which frames are the candidates: the first, the last and evenly between, rounded down as LLaVA does.

    A single candidate is the middle frame.
    """
    if num_available <= num_wanted:
        return tuple(range(num_available))
    if num_wanted == 1:
        return (num_available // 2,)
    return tuple(i * (num_available - 1) // (num_wanted - 1) for i in range(num_wanted))


def confine(root: str | os.PathLike[str], name: str, kind: str = "video") -> Path:
    """The file that a name means inside a root folder.

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


def _probe(path: Path) -> str:
    """Codec and container of a video; what is wrong with any other file is said here.

    PyAV asks, in a third of a millisecond: decord writes lines on standard error that no setting silences.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {_reason(error)}"
        raise MediaError(f"video {str(path)!r} {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"video {str(path)!r} is {'a directory' if path.is_dir() else 'not a file'}")
    if status.st_size == 0:
        raise MediaError(f"video {str(path)!r} is empty (0 bytes)")
    try:
        with av.open(str(path)) as container:
            format, codecs = container.format.name, [stream.codec_context.name for stream in container.streams.video]
    except FFmpegError as error:
        raise MediaError(f"video {str(path)!r} is no video, or is cut off: {_reason(error)}") from error
    if format in PLAYLISTS:
        raise MediaError(f"video {str(path)!r} is a playlist ({format}): name the video file itself")
    if format == "image2" or format.endswith("_pipe"):
        raise MediaError(f"video {str(path)!r} is an image ({format.removesuffix('_pipe')})")
    if not codecs:
        raise MediaError(f"video {str(path)!r} holds no video stream, or no frame of it")
    return f"{codecs[0]} in {format}"


def _reason(error: Exception) -> str:
    """What the system says of a file, without its own number and path."""
    return (getattr(error, "strerror", None) or str(error)).replace("\n", " ")


def _seconds(reader: decord.VideoReader, numbers: tuple[int, ...]) -> Float[np.ndarray, " t"]:
    """When each frame is shown, by the container; by the mean frame rate if the container's times are no times."""
    starts = reader.get_frame_timestamp(list(numbers))[:, 0].astype(np.float64)
    if np.isfinite(starts).all() and (np.diff(starts) > 0).all():
        return starts
    return np.array(numbers) / reader.get_avg_fps()
