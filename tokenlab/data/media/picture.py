"""From a decoded frame to upright RGB: the display matrix in full, and the colours that the stream says it has."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from av import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8

ONE = 1 << 16
"""One, as a display matrix writes it."""


def _one_thread() -> dict[str, int]:
    """How PyAV is told to convert without threads; before 16 it has none.

    Threads do not outlive a fork: a worker that frees what its parent converted with them would crash.
    """
    try:
        VideoFrame(2, 2, "rgb24").reformat(format="gray", threads=1)
    except TypeError:
        return {}
    return {"threads": 1}


ONE_THREAD = _one_thread()


class Unreadable(Exception):
    """A file does not hold what it promises, or holds what cannot be shown."""


def to_rgb(frame: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Converts a frame to RGB, the way up that players show it."""
    source = int(frame.colorspace)
    target = Colorspace.ITU601 if source == Colorspace.ITU709 else Colorspace.ITU709  # RGB has none; PyAV 15 only
    rgb = frame.reformat(  # heeds the source's where the two differ
        format="rgb24",
        src_colorspace=source,
        dst_colorspace=target,
        src_color_range=int(frame.color_range),
        dst_color_range=ColorRange.JPEG,
        **ONE_THREAD,
    )
    return upright(rgb.to_ndarray(), display_matrix(frame))


def display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """Reads how a frame is turned and mirrored: where a step to the right goes, and where a step down goes.

    Raises:
        Unreadable: If it is turned by anything but quarter turns.
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("9i", bytes(data)[:36])
            quarters = round(a / ONE), round(b / ONE), round(c / ONE), round(d / ONE)
            if sorted(map(abs, quarters)) != [0, 0, 1, 1] or quarters[0] * quarters[1]:
                raise Unreadable(f"its display matrix ({a}, {b}, {c}, {d}) / {ONE} is no quarter turn or mirror")
            return quarters
    return 1, 0, 0, 1


def upright(pixels: UInt8[np.ndarray, "h w 3"], matrix: tuple[int, int, int, int]) -> UInt8[np.ndarray, "_h _w 3"]:
    """Turns and mirrors a picture as its display matrix says (ISO/IEC 14496-12, section 6.2.2).

    >>> upright(np.arange(6, dtype=np.uint8).reshape(1, 2, 3), (-1, 0, 0, 1))[0, :, 0].tolist()
    [3, 0]
    """
    a, b, c, d = matrix
    if not a:  # a step to the right goes down or up
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: d or 1, :: a or 1])
