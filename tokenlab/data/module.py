"""The DataModule that every benchmark format fills, and the registry of formats.

A format is one file with one class that says which questions are asked about which video:

    class Shapes(QuestionData, name="shapes"): ...

registers itself by being defined. Decoding, workers, batches and failures are the same for all and live here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from tokenlab.data.loader import ClipLoader, decoded_in_turn
from tokenlab.data.media.files import MediaError
from tokenlab.data.media.image import MAX_IMAGE_PIXELS, read_image
from tokenlab.data.media.video import Sampling, decode
from tokenlab.data.samples import Clip, Frames, Sample
from tokenlab.errors import UserError
from tokenlab.schema.plugins import register

Split = Literal["validation", "test", "predict"]

SPLITS: dict[str, Split] = {"fit": "validation", "validate": "validation", "test": "test", "predict": "predict"}
"""Which questions each of Lightning's commands asks."""

DATASETS: dict[str, type[QuestionData]] = {}


@dataclass(frozen=True)
class MediaFile:
    """A video, or an image."""

    path: Path
    is_image: bool = False


@dataclass(frozen=True)
class ClipEntry:
    """One video, or a few media that are shown together, as files, and every question about it."""

    media: tuple[MediaFile, ...]
    cluster: str
    samples: tuple[Sample, ...]


class ClipDataset(Dataset[Clip]):
    """Decodes media when they are reached; what cannot be read becomes a failed clip."""

    def __init__(
        self,
        entries: Sequence[ClipEntry],
        num_frames: int,
        sampling: Sampling = "time",
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        self.entries = entries
        self.num_frames = num_frames
        self.sampling: Sampling = sampling
        self.max_image_pixels = max_image_pixels

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        entry, media, error = self.entries[index], None, None
        start = perf_counter()
        try:
            media = tuple(map(self._read, entry.media))
        except MediaError as reason:
            error = str(reason)
        return Clip(entry.cluster, entry.samples, media, error, 1000 * (perf_counter() - start))

    def _read(self, file: MediaFile) -> Frames:
        if file.is_image:
            return read_image(file.path, self.max_image_pixels)
        return decode(file.path, self.num_frames, self.sampling)

    def failed(self, index: int, error: str) -> Clip:
        """A clip that cannot be decoded; the error names its files."""
        entry = self.entries[index]
        names = ", ".join(repr(str(file.path)) for file in entry.media)
        return Clip(entry.cluster, entry.samples, None, f"{names}: {error}")


class QuestionData(LightningDataModule, ABC):
    """Questions about videos, in batches of clips: a video is decoded once for all its questions.

    Args:
        num_frames: Candidate frames decoded per video, evenly spaced; a shorter video gives all its frames.
        batch_size: Clips per batch. It changes speed and memory, never an answer.
        num_workers: Processes that decode ahead; 0 decodes in the main process, which a crash of a decoder then ends.
        sampling: Candidates are evenly spaced in `time`, or by their `number` in the file, as LLaVA's loaders do; they
            differ where the frame rate varies.
        max_image_pixels: Pixels of the largest image that is opened: a larger one is a failed sample.

    Raises:
        UserError: If a number is out of range.
    """

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        """Registers a benchmark format under its name."""
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        cls.name = name
        register(DATASETS, "dataset", name, cls)

    def __init__(
        self,
        num_frames: int = 16,
        batch_size: int = 1,
        num_workers: int = 2,
        sampling: Sampling = "time",
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        super().__init__()
        if sampling not in get_args(Sampling):
            raise UserError(f"data.sampling is {sampling!r}, but must be one of {', '.join(get_args(Sampling))}")
        self.sampling: Sampling = sampling
        self.num_frames = at_least(1, num_frames=num_frames)
        self.batch_size = at_least(1, batch_size=batch_size)
        self.num_workers = at_least(0, num_workers=num_workers)
        self.max_image_pixels = at_least(1, max_image_pixels=max_image_pixels)
        self._entries: dict[Split, list[ClipEntry]] = {}
        self._left: dict[Split, list[ClipEntry]] = {}

    @abstractmethod
    def clips(self, split: Split) -> list[ClipEntry]:
        """One entry per video with all its questions, in the benchmark's order."""

    def entries(self, split: Split) -> list[ClipEntry]:
        """The clips of a split, read once and with no uid twice."""
        if split not in self._entries:
            self._entries[split] = self.clips(split)
            refuse_duplicate_uids(self._entries[split])
        return self._entries[split]

    def read(self, entry: ClipEntry) -> Clip:
        """Decodes one clip here and now."""
        return self._dataset([entry])[0]

    def read_in_turn(self, entries: Sequence[ClipEntry]) -> Iterator[Clip]:
        """Decodes clips one by one and none ahead; where there are workers, in one of them, which a file may kill."""
        return decoded_in_turn(self._dataset(entries), len(entries), in_process=not self.num_workers)

    def ask_only(self, split: Split, entries: list[ClipEntry]) -> None:
        """Cuts a split to what a run has to ask: within its limits, and not answered before it broke off."""
        self._left[split] = entries

    def setup(self, stage: str) -> None:
        """Reads the questions, so that a fault in them shows before anything is computed."""
        self.entries(SPLITS[stage])

    def val_dataloader(self) -> DataLoader[Clip]:
        """What `validate` asks."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Clip]:
        """What `test` asks."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Clip]:
        """What `predict` asks: answers need not be known."""
        return self._loader("predict")

    def transfer_batch_to_device(self, batch: list[Clip], device: torch.device, dataloader_idx: int) -> list[Clip]:
        """Leaves raw frames where they are: the model side moves what its processor makes of them."""
        return batch

    def _loader(self, split: Split) -> DataLoader[Clip]:
        return ClipLoader(
            self._dataset(self._left.get(split, self.entries(split))),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=list,
        )

    def _dataset(self, entries: Sequence[ClipEntry]) -> ClipDataset:
        return ClipDataset(entries, self.num_frames, self.sampling, self.max_image_pixels)


def first_questions(entries: Sequence[ClipEntry], number: int) -> list[ClipEntry]:
    """Clips with some of their questions: the first of each clip, then the second of each, and so on up to `number`."""
    ranked = sorted((place, index) for index, entry in enumerate(entries) for place in range(len(entry.samples)))
    kept = Counter(index for _, index in ranked[:number])
    return [replace(entries[index], samples=entries[index].samples[:many]) for index, many in sorted(kept.items())]


def at_least(minimum: int, **setting: int) -> int:
    """The value of the one setting given, or a UserError that names its key."""
    ((key, value),) = setting.items()
    if value < minimum:
        raise UserError(f"data.{key} is {value}, but must be at least {minimum}")
    return value


def refuse_duplicate_uids(entries: Sequence[ClipEntry]) -> None:
    """Raises a UserError that names the uids which more than one question has: records are told apart by them."""
    counts = Counter(sample.uid for entry in entries for sample in entry.samples)
    twice = [repr(uid) for uid, count in counts.items() if count > 1]
    if twice:
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise UserError(f"every question needs a uid of its own, but these come twice: {', '.join(twice[:5])}{more}")
