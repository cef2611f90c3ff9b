"""Videos: a few candidate frames, with their true place in the file.

Which frames a file has, and when each is shown, is the container's to say (`timeline`). Frames are found by their times
where every packet is a frame with a time of its own, and by reading from the start everywhere else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from av.error import FFmpegError
from jaxtyping import Float

from tokenlab.data.media.files import MediaError, check_file, reason_of
from tokenlab.data.media.picture import Unreadable
from tokenlab.data.media.readers import (
    Pictures,
    read_by_decord,
    read_by_seeking,
    read_in_order,
    suits_decord,
    times_in_order,
)
from tokenlab.data.media.timeline import Timeline, read_timeline
from tokenlab.data.samples import Frames

Sampling = Literal["time", "number"]
"""How candidates lie in a video: evenly in time, or evenly by the frames' numbers."""

DRIFT = 2
"""By how many frames the times in a video of constant rate may be off an even clock."""


def decode(path: str | os.PathLike[str], num_frames: int, sampling: Sampling = "time") -> Frames:
    """Reads candidate frames, evenly spaced from the first to the last; all frames of a file that has no more.

    Args:
        path: The file.
        num_frames: How many candidates.
        sampling: Evenly in `time`, which differs from `number` where the frame rate varies.

    Raises:
        MediaError: If the file is missing, empty, shorter than its header says, damaged or no video.
    """
    path = Path(path).absolute()  # no relative name can be taken for a protocol, as in "concat:a.mp4"
    check_file(path)
    timeline = read_timeline(path)
    try:
        if timeline.is_exact:
            seconds = _from_start(timeline.pts, timeline)
            numbers = _candidates(seconds, num_frames, sampling)
            try:
                return Frames(_read(path, timeline, numbers), numbers, seconds[list(numbers)])
            except Unreadable:  # packets without a picture: only decoding all of them tells which frames there are
                pass
        return _decode_in_order(path, timeline, num_frames, sampling)
    except (FFmpegError, Unreadable) as error:
        raise MediaError(f"video {str(path)!r} ({timeline.kind}) cannot be decoded: {reason_of(error)}") from error


def _read(path: Path, timeline: Timeline, numbers: Sequence[int]) -> Pictures:
    if suits_decord(path, timeline):
        return read_by_decord(path, timeline, numbers)
    return read_by_seeking(path, timeline, numbers)


def _decode_in_order(path: Path, timeline: Timeline, num_frames: int, sampling: Sampling) -> Frames:
    times, step = times_in_order(path)
    if not times:
        raise Unreadable("no frame comes out of it")
    known = [time for time in times if time is not None]
    if len(known) < len(times) or (np.diff(known) <= 0).any():  # the container's times are no times
        seconds = np.arange(len(times)) * step * float(timeline.time_base)
    else:
        seconds = _from_start(known, timeline)
    numbers = _candidates(seconds, num_frames, sampling)
    return Frames(read_in_order(path, numbers), numbers, seconds[list(numbers)])


def _from_start(pts: Sequence[int], timeline: Timeline) -> Float[np.ndarray, " t"]:
    """Seconds since the first frame that is shown."""
    return (np.array(pts, dtype=np.int64) - pts[0]) * float(timeline.time_base)


# --- which frames ------------------------------------------------------------------------------------------------


def _candidates(seconds: Float[np.ndarray, " t"], num_frames: int, sampling: Sampling) -> tuple[int, ...]:
    if sampling == "time" and _rate_varies(seconds):
        return sample_times(seconds, num_frames)
    return sample_frames(len(seconds), num_frames)


def _rate_varies(seconds: Float[np.ndarray, " t"]) -> bool:
    """Whether frames come at uneven times, by more than a few that are missing."""
    if len(seconds) < 3:
        return False
    even = np.linspace(seconds[0], seconds[-1], len(seconds))
    return bool(np.abs(seconds - even).max() > DRIFT * np.median(np.diff(seconds)))


def sample_frames(num_available: int, num_wanted: int) -> tuple[int, ...]:
    """Spreads candidates by number: the first, the last and evenly between, rounded down as LLaVA does.

    A single candidate is the middle frame.
    """
    if num_available <= num_wanted:
        return tuple(range(num_available))
    if num_wanted == 1:
        return (num_available // 2,)
    return tuple(i * (num_available - 1) // (num_wanted - 1) for i in range(num_wanted))


def sample_times(seconds: Float[np.ndarray, " t"], num_wanted: int) -> tuple[int, ...]:
    """Spreads candidates over time: the frames that are shown at evenly spaced times.

    Where one is shown at several of them its neighbours take part; a single candidate is what is shown in the middle.
    """
    available = len(seconds)
    if available <= num_wanted:
        return tuple(range(available))
    times = np.linspace(seconds[0], seconds[-1], num_wanted) if num_wanted > 1 else [(seconds[0] + seconds[-1]) / 2]
    shown = np.searchsorted(seconds, np.asarray(times) + 1e-9, side="right") - 1
    slots = np.arange(num_wanted)
    later = np.maximum.accumulate(shown - slots) + slots  # each at least one behind the one before
    return tuple(np.minimum(later, available - num_wanted + slots).tolist())
