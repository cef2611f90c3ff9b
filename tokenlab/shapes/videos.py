"""Scenes as real H.264 files, read back as any other video would be."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import av
import decord
import numpy as np
from jaxtyping import UInt8

from tokenlab.shapes.world import Scene, render

FRAMES_PER_SECOND = 4
QUALITY = {"crf": "16", "preset": "veryfast"}
"""Constant rate factor 16 is close to what the eye cannot tell from the original."""


def encode_video(frames: UInt8[np.ndarray, "frames height width 3"]) -> bytes:
    """An H.264 mp4 of the frames."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=QUALITY)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # One thread: the bytes must not depend on the number of cores.
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def decode_video(video: Path | bytes) -> UInt8[np.ndarray, "frames height width 3"]:
    """All frames of a video, through decord."""
    source = io.BytesIO(video) if isinstance(video, bytes) else str(video)
    reader = decord.VideoReader(source, ctx=decord.cpu(0), num_threads=1)
    return reader.get_batch(range(len(reader))).asnumpy()


def ensure_videos(folder: Path, seeds: Iterable[int]) -> list[Path]:
    """One mp4 per seed, `{seed:07d}.mp4`; those which are there already are kept."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in seeds:
        path = folder / f"{seed:07d}.mp4"
        if not path.exists():
            # Two processes may write the same file: each its own, and the last rename wins with the same bytes.
            unfinished = path.with_suffix(f".{os.getpid()}.tmp")
            unfinished.write_bytes(encode_video(render(Scene.from_seed(seed))))
            unfinished.replace(path)
        paths.append(path)
    return paths
