"""What a container says of its video, from one pass over the packets: which frames are shown, and when.

Nothing is decoded: a packet takes some microseconds. Frames that an edit list hides are packets marked to be discarded,
frames out of order are sorted by their times, and a file that ends before its header says so is found out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Disposition

from tokenlab.data.media.files import MediaError, reason_of

PLAYLISTS = frozenset({"concat", "dash", "hls", "sdp"})
"""Formats that name other files, which would be read from outside the folder that media are confined to."""

INDEXED = frozenset({"mov", "mp4", "matroska", "webm"})
"""Containers in which a packet is a frame and has the time at which that is shown."""

SLACK = 0.5
"""Seconds by which a header may promise more than there is: the last frame's length is a guess in some containers."""


ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""What an ASF file's properties begin with."""


@dataclass(frozen=True)
class Timeline:
    """The frames of a video, by the times in its container.

    Attributes:
        kind: Codec and container, for messages.
        pts: When each frame that is shown is shown, in order, in `time_base`.
        keys: The times of key frames, hidden ones included, in order.
        time_base: Seconds of one unit of time.
        is_exact: Whether every packet is a frame with a time of its own, so that frames can be found by their times.
        is_plain: Whether it is H.264 with short, closed groups of pictures and nothing hidden, in an mp4.
    """

    kind: str
    pts: tuple[int, ...]
    keys: tuple[int, ...]
    time_base: Fraction
    is_exact: bool
    is_plain: bool


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Opens a video, and picks its largest stream that is no cover picture; raises MediaError where there is none."""
    try:
        container = av.open(str(path))
    except FFmpegError as error:
        raise MediaError(f"video {str(path)!r} is no video, or is cut off: {reason_of(error)}") from error
    with container:
        name = container.format.name
        if name in PLAYLISTS:
            raise MediaError(f"video {str(path)!r} is a playlist ({name}): name the video file itself")
        if name in ("image2", "gif", "apng") or name.endswith("_pipe"):
            raise MediaError(f"video {str(path)!r} is an image ({name.removesuffix('_pipe')})")
        streams = [s for s in container.streams.video if s.codec_context is not None and not _is_cover(s)]
        if not streams:
            raise MediaError(f"video {str(path)!r} holds no video stream, or no frame of it")
        stream: Any = max(streams, key=lambda s: (s.codec_context.width or 0) * (s.codec_context.height or 0))
        stream.codec_context.thread_count = 1  # DataLoader workers are the parallelism
        yield container, stream


def read_timeline(path: Path) -> Timeline:
    """Reads the packets of a video.

    Raises:
        MediaError: If the file is no video, or ends before its header says.
    """
    with opened(path) as (container, stream):
        name, codec = container.format.name, stream.codec_context.name
        passed = _Packets(codec, stream.index)
        broken = passed.read(container)
        kind = f"{codec} in {name}"
        _check_length(path, container, stream, passed)
        if broken is not None:
            raise MediaError(f"video {str(path)!r} ({kind}) cannot be read to its end: {reason_of(broken)}") from broken
        shown, times = sorted(passed.shown), passed.times
        exact = None not in times and len(set(times)) == len(times) and bool(passed.keys) and bool(shown)
        exact &= not INDEXED.isdisjoint(name.split(","))
        plain = exact and passed.is_closed and len(shown) == len(times) and codec == "h264" and name.startswith("mov")
        return Timeline(kind, tuple(shown), tuple(sorted(passed.keys)), stream.time_base, exact, plain)


class _Packets:
    """What one pass over the packets of a file shows.

    Args:
        codec: Of the video.
        index: The stream that is the video.
    """

    def __init__(self, codec: str, index: int) -> None:
        self.codec, self.index = codec, index
        self.times: list[int | None] = []  # of all packets
        self.shown: list[int] = []  # of those that no edit list hides
        self.keys: list[int] = []
        self.is_closed = True  # whether every group of pictures begins anew, and none is shown before its key frame
        self.end = self.end_of_others = 0.0

    def read(self, container: Any) -> FFmpegError | None:
        """Goes over the packets; what ends the way early is returned."""
        try:
            for packet in container.demux():
                if packet.size:
                    self._take(packet)
        except FFmpegError as error:
            return error
        return None

    def _take(self, packet: Any) -> None:
        if packet.stream.index != self.index:
            self.end_of_others = max(self.end_of_others, _end_of(packet))
            return
        self.times.append(packet.pts)
        if packet.pts is None:
            return
        if packet.is_keyframe:
            self.keys.append(packet.pts)
            self.is_closed &= self.codec != "h264" or _is_idr(bytes(packet))
        self.is_closed &= bool(self.keys) and packet.pts >= self.keys[-1]
        if not packet.is_discard:
            self.shown.append(packet.pts)
            self.end = max(self.end, _end_of(packet))


def _is_idr(packet: bytes) -> bool:
    """Whether an H.264 packet of an mp4 holds a picture that refers to none before it, and so do all behind it.

    Where pictures are refreshed little by little there is none, though some are called key frames (ISO/IEC 14496-10,
    7.4.1.2.4).
    """
    place = 0
    while place + 4 < len(packet):
        if packet[place + 4] & 31 == 5:
            return True
        place += 4 + int.from_bytes(packet[place : place + 4], "big")
    return False


def _is_cover(stream: Any) -> bool:
    """Whether a stream is a picture that goes with the file, such as a thumbnail."""
    return bool(stream.disposition & Disposition.attached_pic)


def _end_of(packet: Any) -> float:
    if packet.pts is None or packet.time_base is None:
        return 0.0
    return float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _check_length(path: Path, container: Any, stream: Any, passed: _Packets) -> None:
    """Raises MediaError for a file that is shorter than its header says."""
    shown = sorted(passed.shown)
    second = float(stream.time_base)
    if (promised := _promised(path, container, stream)) is None:
        return
    if stream.duration is None:  # the header's duration is that of the longest stream, from the clock's zero on
        there = max(passed.end, passed.end_of_others)
    else:
        there = passed.end - shown[0] * second if shown else 0.0
    gap = median([later - earlier for earlier, later in pairwise(shown)] or [0]) * second
    if promised - there > max(SLACK, 2 * gap):
        last = (shown[-1] - shown[0]) * second if shown else 0.0
        raise MediaError(
            f"video {str(path)!r} is cut off: its header says {promised:.1f} s, but {last:.1f} s are there"
        )


def _promised(path: Path, container: Any, stream: Any) -> float | None:
    """Seconds that a header says; FFmpeg takes what is missing from the duration of some containers."""
    match container.format.name:
        case "avi" if stream.frames and stream.average_rate:
            return float(stream.frames / stream.average_rate)
        case "asf" if container.duration is None:
            return _asf_seconds(path)
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _asf_seconds(path: Path) -> float | None:
    """The play duration in an ASF file's properties (ASF specification, section 3.2), unless it is a broadcast."""
    with path.open("rb") as file:
        header = file.read(1 << 16)
    if (place := header.find(ASF_PROPERTIES)) < 0 or len(header) < place + 92:
        return None
    duration, _, preroll, flags = struct.unpack_from("<QQQI", header, place + 64)
    return None if flags & 1 else duration / 1e7 - preroll / 1e3
