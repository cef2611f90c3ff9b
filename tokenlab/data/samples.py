"""What the data side hands to the model side: a clip with all questions asked about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class Sample:
    """One question about one clip.

    Attributes:
        uid: Unique in the benchmark, stable between runs.
        cluster: The video the question belongs to: questions of one video are not independent.
        question: As the benchmark words it.
        answer: The expected answer; None where none is known (`tokenlab predict`).
        type: The benchmark's question type; the empty string where it has none.
    """

    uid: str
    cluster: str
    question: str
    answer: str | None = None
    type: str = ""


@dataclass(frozen=True)
class Frames:
    """Decoded frames of one video, with their true place in the file; or one image."""

    pixels: UInt8[np.ndarray, "t h w 3"]
    numbers: tuple[int, ...]  # 0-based frame numbers in the file
    seconds: Float[np.ndarray, " t"]
    still: bool = False  # an image, not a video of one frame


@dataclass(frozen=True)
class Clip:
    """One video and every question about it: decoded once, encoded once.

    Exactly one of `frames` and `error` is set: a video that cannot be read is a failed clip, not a crash.
    """

    cluster: str
    samples: tuple[Sample, ...]
    frames: Frames | None
    error: str | None = None
    decode_milliseconds: float = 0.0
