"""The embedded benchmark: rendered videos, and questions whose answers are known because the scenes are."""

from __future__ import annotations

import hashlib
import inspect
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from tokenlab.data.module import ClipEntry, MediaFile, QuestionData, Split, at_least
from tokenlab.data.samples import Sample
from tokenlab.errors import UserError
from tokenlab.shapes import videos, world
from tokenlab.shapes.questions import possible_questions, sample_questions
from tokenlab.shapes.splits import seeds


class Shapes(QuestionData, name="shapes"):
    """Short rendered videos of moving, changing shapes; every type of question has an equal share.

    `validate` asks about the validation split, `test` and `predict` about the test split. The mp4 files are rendered
    when they are first needed.

    Args:
        num_videos: Videos of the split, at most a million.
        questions_per_video: Questions about each; beyond 3 the videos no longer allow equal shares of every type.
        folder: Where the videos are kept; by default `tokenlab/shapes` in the user's cache folder.
    """

    def __init__(
        self, num_videos: int = 70, questions_per_video: int = 3, folder: str | None = None, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.num_videos = at_least(1, num_videos=num_videos)
        self.questions_per_video = at_least(1, questions_per_video=questions_per_video)
        self.folder = Path(folder).expanduser() if folder else cache_folder()

    def prepare_data(self) -> None:
        """Renders the videos that are not there yet."""
        for split in ("validation", "test"):
            self._videos(split)

    def clips(self, split: Split) -> list[ClipEntry]:
        """The split's videos, and the same questions about them in every run."""
        split = "validation" if split == "validation" else "test"
        paths = self._videos(split)
        scenes = [world.Scene.from_seed(seed) for seed in seeds(split, self.num_videos)]
        chosen = sample_questions(scenes, self.questions_per_video)
        entries = []
        for number, (path, scene, questions) in enumerate(zip(paths, scenes, chosen, strict=True)):
            cluster = f"shapes/{split}/{number:06d}"
            legal = possible_questions(scene)
            # Numbered among all that could be asked: a uid means one question, whatever the size of the sample.
            samples = [Sample(f"{cluster}/{legal.index(q)}", cluster, q.text, (q.answer,), q.type) for q in questions]
            entries.append(ClipEntry((MediaFile(path),), cluster, tuple(samples)))
        return entries

    def _videos(self, split: str) -> list[Path]:
        folder = self.folder / recipe()
        numbers = seeds(split, self.num_videos)
        there = all((folder / f"{seed:07d}.mp4").exists() for seed in numbers)
        bar = track(
            numbers,
            description=f"Rendering the {split} videos",
            console=Console(stderr=True, force_jupyter=False),
            transient=True,
            disable=there,
        )
        try:
            return [path for seed in bar for path in videos.ensure_videos(folder, [seed])]
        except OSError as error:
            raise UserError(
                f"data.folder is {str(self.folder)!r}, where the videos cannot be kept ({error.strerror}): "
                "name a folder that can be written to"
            ) from error


def cache_folder() -> Path:
    """Where rendered videos are kept if the user names no folder."""
    return Path(os.getenv("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenlab" / "shapes"


def recipe() -> str:
    """Names the code that draws the videos: those of another version would not match the questions."""
    source = inspect.getsource(world) + inspect.getsource(videos)
    return hashlib.sha256(source.encode()).hexdigest()[:12]
