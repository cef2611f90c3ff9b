"""Real mp4 files of known grey levels."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

STEP = 5
"""Grey levels between one frame and the next."""


def write_mp4(
    path: Path, num_frames: int = 20, rate: int = 10, pts: list[int] | None = None, noise: bool = False, **options: str
) -> Path:
    """Writes frame i as grey level 20 + STEP i, lossless; noise gives the file the bytes that damage can hit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "0", "preset": "ultrafast"} | options)
        # decord2 3.4.0 fails on pictures 8, 12, 16, 24, 32, 48 or 96 wide.
        stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv444p"
        for i in range(num_frames):
            pixels = np.full((32, 40, 3), 20 + STEP * (i % 45), np.uint8)
            if noise:
                pixels[:16] = np.random.default_rng(i).integers(0, 256, (16, 40, 3))
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if pts is not None:
                frame.pts = pts[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    return write_mp4


@pytest.fixture(scope="session")
def grey_levels() -> Callable[..., list[int]]:
    """The frame number that each picture's grey level stands for."""
    return lambda pixels: [round((float(picture[-1].mean()) - 20) / STEP) for picture in pixels]


BITS, BAR_HEIGHT = 10, 16
"""Frame numbers are drawn as bars: bar b is white where bit b of the number is set."""

ENCODERS = {
    "h264": ("libx264", {"bf": "2"}),
    "hevc": ("libx265", {"x265-params": "log-level=none:keyint=24:min-keyint=24"}),
    "vp9": ("libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
    "av1": ("libsvtav1", {"preset": "12", "svtav1-params": "keyint=24"}),
    "mpeg4": ("mpeg4", {"bf": "2", "q": "2"}),
    "mpeg2": ("mpeg2video", {"bf": "2", "q": "2"}),
    "mpeg1": ("mpeg1video", {"bf": "2", "q": "2"}),
    "wmv2": ("wmv2", {"q": "2"}),
}


def write_bars(
    path: Path,
    codec: str = "h264",
    num_frames: int = 80,
    size: tuple[int, int] = (160, 64),
    rate: int = 25,
    pts: list[int] | None = None,
    start: int = 0,
    **options: str,
) -> Path:
    """Writes frames with their numbers drawn in bars, above a texture that moves."""
    encoder, defaults = ENCODERS[codec]
    width, height = size
    texture = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    texture = texture.repeat(8, 0).repeat(8, 1)[:height, :width]
    kind = {".asf": "asf", ".ts": "mpegts", ".mpg": "mpeg"}.get(path.suffix)
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(encoder, rate=rate, options={"g": "24"} | defaults | options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            pixels = np.ascontiguousarray(np.roll(texture, 2 * number, axis=1))
            for bit in range(BITS):
                left, right = bit * width // BITS, (bit + 1) * width // BITS
                pixels[:BAR_HEIGHT, left:right] = 255 * (number >> bit & 1)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = start + (number if pts is None else pts[number])
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read_bars(pixels: np.ndarray, bits: int = BITS) -> list[int]:
    """The number that is drawn into each frame."""
    width = pixels.shape[2]
    middles = [(2 * bit + 1) * width // (2 * bits) for bit in range(bits)]
    bars = [(pixels[:, 4:12, x - 1 : x + 2].mean((1, 2, 3)) > 127).astype(int) << b for b, x in enumerate(middles)]
    return np.sum(bars, axis=0).tolist()
