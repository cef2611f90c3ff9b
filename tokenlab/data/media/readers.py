"""Three ways to a few frames of a video, by what its container proves: decord, seeking, and reading from the start."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

# torch comes first: where decord was loaded before it, torch's first convolution crashes the process (NVBLAS).
import torch  # noqa: F401

# isort: split
import decord
import numpy as np
from jaxtyping import UInt8

from tokenlab.data.media.picture import Unreadable, display_matrix, to_rgb
from tokenlab.data.media.timeline import Timeline, opened
from tokenlab.errors import UserError

decord.logging.set_level(decord.logging.QUIET)

Pictures = UInt8[np.ndarray, "t h w 3"]

DECORD_STEPS = 48
"""Frames between key frames up to which decord is right: on the way to a farther one it may give up, and return an
earlier frame without a word."""

NO_SUBSTITUTES = 1e-9
"""Share of frames that decord may replace by a neighbour where they cannot be decoded (one still passes)."""


def refuse_unmaintained_decord(version: str = decord.__version__) -> None:
    """Refuses decord 0.x, whose module has the same name as decord2's and hides it if both are installed."""
    if version.startswith("0."):
        raise UserError(
            f"decord {version} is installed together with decord2, or in its place, and both are `import decord`: "
            "run `pip uninstall -y decord decord2` and then `pip install decord2`"
        )


refuse_unmaintained_decord()


def suits_decord(path: Path, timeline: Timeline) -> bool:
    """Whether a file is of the kind on which decord was shown right.

    That is plain H.264 in an mp4, with a key frame at least every `DECORD_STEPS` frames, which is neither turned nor
    narrow nor of more than eight bits.
    """
    if not timeline.is_plain:
        return False
    starts = [bisect_right(timeline.pts, key) for key in timeline.keys]
    if max(np.diff([*starts, len(timeline.pts) + 1])) > DECORD_STEPS:
        return False
    with opened(path) as (container, stream):
        context = stream.codec_context
        if context.pix_fmt != "yuv420p" or context.width % 32 or len(container.streams.video) > 1:
            return False
        frame = next(container.decode(stream))
        return display_matrix(frame) == (1, 0, 0, 1)


def read_by_decord(path: Path, timeline: Timeline, numbers: Sequence[int]) -> Pictures:
    """Reads frames by their numbers; raises Unreadable where decord's own count is another one."""
    try:
        reader = decord.VideoReader(
            str(path),
            ctx=decord.cpu(0),
            num_threads=1,
            fault_tol=NO_SUBSTITUTES,  # pyright: ignore[reportArgumentType]
        )
        if len(reader) != len(timeline.pts):
            raise Unreadable(f"decord counts {len(reader)} frames, of {len(timeline.pts)}")
        return reader.get_batch(list(numbers)).asnumpy()
    except (RuntimeError, decord.DECORDError, decord.DECORDLimitReachedError) as error:
        raise Unreadable(str(error)) from error


def read_by_seeking(path: Path, timeline: Timeline, numbers: Sequence[int]) -> Pictures:
    """Reads frames by their times, each from the last key frame that is shown no later.

    A frame that is shown before a key frame but stored behind it (an open group of pictures) is thereby read from the
    key frame before, and every frame found is the one with the time asked for.

    Raises:
        Unreadable: If the decoder does not give out a frame with one of the times.
    """
    wanted = {timeline.pts[number]: place for place, number in enumerate(numbers)}
    pictures: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
    with opened(path) as (container, stream):
        for key, group in groupby(sorted(wanted), lambda pts: _key_before(timeline, pts)):
            left = set(group)
            container.seek(key, stream=stream)
            for frame in _decode(container, stream, wanted):
                if frame.pts in left:
                    left.remove(frame.pts)
                    pictures[wanted[frame.pts]] = to_rgb(frame)
                    if not left:
                        break
            if left:
                raise Unreadable(f"no frame at {float(min(left) * timeline.time_base):.3f} s")
    return _stack([pictures[place] for place in range(len(numbers))])


def _key_before(timeline: Timeline, pts: int) -> int:
    return timeline.keys[max(0, bisect_right(timeline.keys, pts) - 1)]


def _decode(container: Any, stream: Any, wanted: dict[int, int]) -> Iterator[Any]:
    """Decodes from here on, without the pictures that nobody wants and no other refers to."""
    context, may_skip = stream.codec_context, stream.codec_context.name == "h264"
    for packet in container.demux(stream):
        if may_skip:
            context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in wanted else "NONREF"
        yield from packet.decode()


def times_in_order(path: Path) -> tuple[list[int | None], float]:
    """Decodes a whole video for the times of its frames, as far as it says them, and seconds of a frame."""
    with opened(path) as (container, stream):
        times = [frame.pts for frame in container.decode(stream)]
        rate = stream.average_rate or stream.guessed_rate or 1
        return times, float(1 / rate / stream.time_base)


def read_in_order(path: Path, numbers: Sequence[int]) -> Pictures:
    """Decodes a video from its start, and keeps frames by their numbers."""
    left, pictures = set(numbers), []
    with opened(path) as (container, stream):
        for number, frame in enumerate(container.decode(stream)):
            if number in left:
                pictures.append(to_rgb(frame))
                if len(pictures) == len(left):
                    break
    if len(pictures) < len(left):
        raise Unreadable(f"only {len(pictures)} of {len(left)} frames")
    return _stack(pictures)


def _stack(pictures: Sequence[UInt8[np.ndarray, "_h _w 3"]]) -> Pictures:
    """Frames of one size; raises Unreadable where the size changes within the video."""
    if len({picture.shape for picture in pictures}) > 1:
        sizes = sorted({f"{picture.shape[1]}x{picture.shape[0]}" for picture in pictures})
        raise Unreadable(f"its frames change their size ({', '.join(sizes)})")
    return np.stack(pictures)
