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
