"""A user's own questions: JSON lines beside a folder of videos."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tokenlab.data.module import ClipEntry, QuestionData, Split
from tokenlab.data.samples import Sample
from tokenlab.data.video import MediaError, confine
from tokenlab.errors import UserError

REQUIRED = ("video", "question")
KEYS = (*REQUIRED, "answer", "uid", "type", "cluster")


class Jsonl(QuestionData, name="jsonl"):
    """Your own questions, one JSON object a line: `{"video": "a.mp4", "question": "...", "answer": "..."}`.

    `video` (a path inside `root`) and `question` are required; `answer`, `uid`, `type` and `cluster` are optional.
    Every split asks all questions.

    Args:
        file: The JSON lines.
        root: Folder of the videos, which no path may leave; by default the file's own folder.
    """

    def __init__(self, file: str, root: str | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        self.file = Path(file).expanduser()
        self.root = Path(root).expanduser() if root is not None else self.file.parent

    def clips(self, split: Split) -> list[ClipEntry]:
        """The videos in the order of their first question."""
        if not self.root.is_dir():
            raise UserError(f"data.root is {str(self.root)!r}, which is not a folder")
        videos: dict[Path, list[Sample]] = {}
        for place, row in read_rows(self.file):
            try:
                path = confine(self.root, row["video"])
            except MediaError as error:
                raise UserError(f"{place}: {error}") from error
            add_question(videos.setdefault(path, []), row, place)
        if not videos:
            raise UserError(f"data.file is {str(self.file)!r}, which holds no question")
        return [ClipEntry(path, samples[0].cluster, tuple(samples)) for path, samples in videos.items()]


def add_question(samples: list[Sample], row: dict[str, str], place: str) -> None:
    """Appends a row to the questions about its video, which all belong to one cluster."""
    video = row["video"]
    cluster = row.get("cluster") or (samples[0].cluster if samples else video)
    if samples and cluster != samples[0].cluster:
        was = samples[0].cluster
        raise UserError(f"{place}: cluster {cluster!r} is {was!r} in an earlier question about the video {video!r}")
    uid = row.get("uid") or f"{video}#{len(samples)}"
    samples.append(Sample(uid, cluster, row["question"], row.get("answer"), row.get("type", "")))


def read_rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of a JSON lines file, checked, with its place `file:line`; null stands for an absent optional key."""
    try:
        lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"data.file is {str(file)!r}, which cannot be read ({error.strerror})") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{file}:{number}"
            yield place, check_row(parse(line, place), place)


def parse(line: bytes, place: str) -> Any:
    """The JSON value of one line."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 (byte {error.start + 1} of the line)") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise UserError(f"{place}: JSON nested too deeply") from error


def check_row(row: Any, place: str) -> dict[str, str]:
    """The row's text by key, or a UserError that says what is wrong with it."""
    if not isinstance(row, dict):
        raise UserError(f'{place}: needs an object such as {{"video": "a.mp4", "question": "..."}}')
    for key in row:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(KEYS)}"
            raise UserError(f"{place}: unknown key {key!r}: {hint}")
    row = {key: value for key, value in row.items() if value is not None}
    for key in REQUIRED:
        if key not in row:
            raise UserError(f"{place}: {key!r} is missing")
    for key, value in row.items():
        if not isinstance(value, str):
            raise UserError(f"{place}: {key!r} must be text in quotes, not {json.dumps(value)[:40]}")
    return row
