"""A user's own questions: JSON lines beside a folder of videos and images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tokenlab.data.media.files import MediaError, confine
from tokenlab.data.module import ClipEntry, MediaFile, QuestionData, Split
from tokenlab.data.samples import Sample
from tokenlab.errors import UserError

KINDS = ("video", "image")
KEYS = (*KINDS, "question", "content", "answer", "uid", "type", "cluster")
Row = dict[str, Any]


class Jsonl(QuestionData, name="jsonl"):
    """Your own questions, one JSON object a line: `{"video": "a.mp4", "question": "...", "answer": "..."}`.

    `video` or `image` (a path inside `root`) and `question`; or, where there are several media or none, `content`: a
    list of `{"image": ...}`, `{"video": ...}` and `{"text": ...}` in the order of the prompt. `answer`, `uid`, `type`
    and `cluster` are optional. Every split asks all questions.

    Args:
        file: The JSON lines.
        root: Folder of the media, which no path may leave; by default the file's own folder.
    """

    def __init__(self, file: str, root: str | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        self.file = Path(file).expanduser()
        self.root = Path(root).expanduser() if root is not None else self.file.parent

    def clips(self, split: Split) -> list[ClipEntry]:
        """What is shown, in the order of its first question."""
        if not self.root.is_dir():
            raise UserError(f"data.root is {str(self.root)!r}, which is not a folder")
        clips: dict[tuple[MediaFile, ...], list[Sample]] = {}
        for place, row in read_rows(self.file):
            try:
                names = [(kind, part[kind]) for part in parts(row) for kind in KINDS if kind in part]
                media = tuple(
                    MediaFile(confine(self.root, name, kind), is_image=kind == "image") for kind, name in names
                )
            except MediaError as error:
                raise UserError(f"{place}: {error}") from error
            add_question(clips.setdefault(media, []), row, place)
        if not clips:
            raise UserError(f"data.file is {str(self.file)!r}, which holds no question")
        return [ClipEntry(media, samples[0].cluster, tuple(samples)) for media, samples in clips.items()]


def parts(row: Row) -> list[dict[str, str]]:
    """The media and texts of a row, in the order of the prompt."""
    if "content" in row:
        return row["content"]
    return [*({kind: row[kind]} for kind in KINDS if kind in row), {"text": row["question"]}]


def add_question(samples: list[Sample], row: Row, place: str) -> None:
    """Appends a row to the questions about its media, which all belong to one cluster."""
    names = [part[kind] for part in parts(row) for kind in KINDS if kind in part]
    shown = " + ".join(names) or f"text {len(samples)}"
    together = bool(samples and names)  # a question about nothing shown is a cluster of its own
    cluster = row.get("cluster") or (samples[0].cluster if together else shown)
    if together and cluster != samples[0].cluster:
        was = samples[0].cluster
        raise UserError(f"{place}: cluster {cluster!r} is {was!r} in an earlier question about {shown!r}")
    uid = row.get("uid") or f"{shown}#{len(samples)}"
    texts = [part["text"] for part in parts(row) if "text" in part]
    numbers = iter(range(len(names)))
    content = tuple(part["text"] if "text" in part else next(numbers) for part in parts(row))
    samples.append(
        Sample(
            uid,
            cluster,
            " ".join(text.strip() for text in texts),
            row.get("answer"),
            row.get("type", ""),
            content if "content" in row else None,
        )
    )


def read_rows(file: Path) -> Iterator[tuple[str, Row]]:
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


def check_row(row: Any, place: str) -> Row:
    """The row by key, or a UserError that says what is wrong with it."""
    if not isinstance(row, dict):
        raise UserError(f'{place}: needs an object such as {{"video": "a.mp4", "question": "..."}}')
    for key in row:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(KEYS)}"
            raise UserError(f"{place}: unknown key {key!r}: {hint}")
    row = {key: value for key, value in row.items() if value is not None}
    for key, value in row.items():
        if key != "content" and not isinstance(value, str):
            raise UserError(f"{place}: {key!r} must be text in quotes, not {json.dumps(value)[:40]}")
    if "content" in row:
        if extra := [key for key in ("question", *KINDS) if key in row]:
            raise UserError(f"{place}: 'content' says all that is shown and asked: leave out {extra[0]!r}")
        check_content(row["content"], place)
        return row
    if "question" not in row:
        raise UserError(f"{place}: 'question' is missing")
    shown = [kind for kind in KINDS if kind in row]
    if not shown:
        raise UserError(f"{place}: 'video' is missing (or 'image'; where there are several media or none, 'content')")
    if len(shown) > 1:
        raise UserError(f"{place}: 'video' stands beside 'image': list several media in 'content'")
    return row


def check_content(content: Any, place: str) -> None:
    """Raises UserError for anything but a list of media and texts."""
    kinds = (*KINDS, "text")
    if not isinstance(content, list) or not content:
        raise UserError(f'{place}: \'content\' must be a list such as [{{"image": "a.png"}}, {{"text": "..."}}]')
    for number, part in enumerate(content, start=1):
        good = isinstance(part, dict) and len(part) == 1 and next(iter(part)) in kinds
        if not good or not isinstance(next(iter(part.values())), str):
            raise UserError(
                f"{place}: part {number} of 'content' must be one of {', '.join(kinds)} with a text, not "
                f"{json.dumps(part)[:40]}"
            )
