"""Synthetic media: small clips and images of noise, with questions about them."""

import numpy as np

from tokenlab.data.samples import Clip, Frames, Sample

QUESTIONS = ("what colour is the circle ?", "how many objects are there at the end ?")


def noise_image(seed: int, height: int, width: int) -> Frames:
    """Makes an image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return Frames(pixels, (0,), np.zeros(1), is_image=True)


def noise_video(seed: int, num_frames: int) -> Frames:
    """Makes a video of random pixels, every second frame of four a second."""
    pixels = np.random.default_rng(seed).integers(0, 256, (num_frames, 64, 64, 3), dtype=np.uint8)
    return Frames(pixels, tuple(range(0, 2 * num_frames, 2)), np.arange(num_frames) / 2)


def video_clips() -> list[Clip]:
    """Makes clips of different lengths, with frames that resemble one another in runs, and two questions each."""
    rng = np.random.default_rng(7)
    clips = []
    for index, num_frames in enumerate((6, 1, 4)):
        scenes = rng.integers(0, 256, (num_frames // 2 + 1, 64, 64, 3))
        noise = rng.integers(-20, 20, (num_frames, 64, 64, 3))
        pixels = np.clip(scenes[np.arange(num_frames) // 2] + noise, 0, 255).astype(np.uint8)
        frames = Frames(pixels, tuple(range(0, 2 * num_frames, 2)), np.arange(num_frames) / 2)
        samples = tuple(Sample(f"v{index}#{k}", f"v{index}", question) for k, question in enumerate(QUESTIONS))
        clips.append(Clip(f"v{index}", samples, (frames,)))
    return clips
