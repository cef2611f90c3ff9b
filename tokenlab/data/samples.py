"""What the data side hands to the model side: media, with all questions asked about them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8


@dataclass(frozen=True)
class Sample:
    """One question about one clip, or about none.

    Attributes:
        uid: Unique in the benchmark, stable between runs.
        cluster: The video the question belongs to: questions of one video are not independent.
        question: As the benchmark words it.
        answers: What is right, each of them; empty where nobody knows (`tokenlab predict`). Letters where there are
            options.
        type: The benchmark's question type; the empty string where it has none.
        content: Text, and numbers of the clip's media (from 0), in the order of the prompt; None: all media, and then
            the question.
        options: What there is to choose from, which the question ends with; empty for an open question.
    """

    uid: str
    cluster: str
    question: str
    answers: tuple[str, ...] = ()
    type: str = ""
    content: tuple[str | int, ...] | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frames:
    """Decoded frames of one video, with their true place in the file; or one image."""

    pixels: UInt8[np.ndarray, "t h w 3"]
    numbers: tuple[int, ...]  # 0-based frame numbers in the file
    seconds: Float[np.ndarray, " t"]
    is_image: bool = False  # an image, not a video of one frame

    @property
    def choice(self) -> tuple[tuple[int, ...], tuple[int, int]]:
        """What tells them from others of the same medium: numbers, and size of the pictures."""
        return self.numbers, self.size

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every picture."""
        height, width = self.pixels.shape[1:3]
        return height, width

    def at(self, index: Int[np.ndarray, " s"]) -> Frames:
        """Some of the frames."""
        numbers = tuple(self.numbers[i] for i in index.tolist())
        return replace(self, pixels=self.pixels[index], numbers=numbers, seconds=self.seconds[index])


@dataclass(frozen=True)
class Clip:
    """One video, or a few media that are shown together, and every question about it: decoded once, encoded once.

    Exactly one of `media` and `error` is set: a file that cannot be read is a failed clip, not a crash.
    """

    cluster: str
    samples: tuple[Sample, ...]
    media: tuple[Frames, ...] | None
    error: str | None = None
    decode_milliseconds: float = 0.0
