"""What training computes once: decoded videos and the frozen tower's features."""

from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, UInt8
from rich.progress import Progress
from transformers import CLIPModel

from tokenlab.shapes.network import FEATURE_LAYER, GRID
from tokenlab.shapes.videos import decode_video, encode_video
from tokenlab.shapes.world import NUM_FRAMES, SIZE, Scene, render
from tokenlab.training.clip import to_pixels
from tokenlab.training.training import write_atomically

PROCESSES = 2
WORTH_PROCESSES = 2_000
"""Videos from which on new processes, which import everything anew, are sooner done."""


def through_codec(seed: int) -> UInt8[np.ndarray, "16 64 64 3"]:
    """A video as whoever reads its file sees it."""
    return decode_video(encode_video(render(Scene.from_seed(seed))))


def _all_through_codec(seeds: Sequence[int]) -> Iterator[UInt8[np.ndarray, "16 64 64 3"]]:
    if len(seeds) < WORTH_PROCESSES:
        yield from map(through_codec, seeds)
        return
    # Spawned, not forked: decord in a forked process may return wrong frames.
    with get_context("spawn").Pool(PROCESSES) as pool:
        yield from pool.imap(through_codec, seeds, chunksize=32)


def video_cache(path: Path, seeds: Sequence[int], progress: Progress) -> UInt8[np.ndarray, "videos 16 64 64 3"]:
    """Decoded videos of the seeds, made now or read from the cache."""

    def write(unfinished: Path) -> None:
        task = progress.add_task(path.stem, total=len(seeds), note="")
        shape = (len(seeds), NUM_FRAMES, SIZE, SIZE, 3)
        array = np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
        for i, video in enumerate(_all_through_codec(seeds)):
            array[i] = video
            progress.update(task, completed=i + 1)
        array.flush()

    if not path.exists():
        write_atomically(path, write)
    return np.load(path, mmap_mode="r")


def feature_cache(
    path: Path, clip: CLIPModel, videos: UInt8[np.ndarray, "videos 16 64 64 3"], progress: Progress
) -> Float16[np.ndarray, "videos 16 patches width"]:
    """What LLaVA's projector receives for every frame, made now or read from the cache."""

    def write(unfinished: Path) -> None:
        task = progress.add_task(path.stem, total=len(videos), note="")
        vision: Any = clip.config.vision_config
        shape = (*videos.shape[:2], GRID**2, vision.hidden_size)
        array = np.lib.format.open_memmap(unfinished, "w+", np.float16, shape)
        for i in range(0, len(videos), 16):
            array[i : i + 16] = tower_features(clip, videos[i : i + 16])
            progress.update(task, completed=min(i + 16, len(videos)))
        array.flush()

    if not path.exists():
        write_atomically(path, write)
    return np.load(path, mmap_mode="r")


@torch.no_grad()
def tower_features(
    clip: CLIPModel, videos: UInt8[np.ndarray, "videos frames 64 64 3"]
) -> Float16[np.ndarray, "videos frames patches width"]:
    """The feature layer without [CLS]."""
    seen = clip.vision_model(to_pixels(videos.reshape(-1, SIZE, SIZE, 3)), output_hidden_states=True)
    features = seen.hidden_states[FEATURE_LAYER][:, 1:]
    return features.half().numpy().reshape(*videos.shape[:2], *features.shape[1:])
