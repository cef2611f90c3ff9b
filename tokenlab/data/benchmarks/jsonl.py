"""A user's own questions: JSON lines beside a folder of videos and images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tokenlab.data.media.files import MediaError, confine
from tokenlab.data.module import ClipEntry, MediaFile, QuestionData, Split
from tokenlab.data.options import MOST_OPTIONS, letter_of, plain_options, write_options
from tokenlab.data.samples import Sample
from tokenlab.errors import UserError

KINDS = ("video", "image")
KEYS = (*KINDS, "question", "content", "options", "answer", "uid", "type", "cluster")
MAY_BE_NUMBERS = ("answer", "uid", "type", "cluster")
Row = dict[str, Any]


class Written(str):
    """A number, as the file writes it."""


class Jsonl(QuestionData, name="jsonl"):
    """Your own questions, one JSON object a line: `{"video": "a.mp4", "question": "...", "answer": "..."}`.

    `video` or `image` (a path inside `root`) and `question`; or, where there are several media or none, `content`: a
    list of `{"image": ...}`, `{"video": ...}` and `{"text": ...}` in the order of the prompt. `answer` (one, or
    a list of all that are right), `options` to choose from, `uid`, `type` and `cluster` are optional. Every split asks
    all questions.

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
    """The media and texts of a row, in the order of the prompt, its options last."""
    shown = row.get("content") or [*({kind: row[kind]} for kind in KINDS if kind in row), {"text": row["question"]}]
    if "options" not in row:
        return shown
    *before, last = shown
    if "text" in last:
        return [*before, {"text": write_options(last["text"], row["options"])}]
    return [*shown, {"text": write_options("", row["options"]).lstrip()}]


def add_question(samples: list[Sample], row: Row, place: str) -> None:
    """Appends a row to the questions about its media, which all belong to one cluster."""
    in_order = parts(row)
    names = [part[kind] for part in in_order for kind in KINDS if kind in part]
    shown = " + ".join(names) or f"text {len(samples)}"
    together = bool(samples and names)  # a question about nothing shown is a cluster of its own
    cluster = row.get("cluster") or (samples[0].cluster if together else shown)
    if together and cluster != samples[0].cluster:
        was = samples[0].cluster
        raise UserError(f"{place}: cluster {cluster!r} is {was!r} in an earlier question about {shown!r}")
    texts = [part["text"] for part in in_order if "text" in part]
    numbers = iter(range(len(names)))
    content = tuple(part["text"] if "text" in part else next(numbers) for part in in_order)
    samples.append(
        Sample(
            row.get("uid") or f"{shown}#{len(samples)}",
            cluster,
            " ".join(text.strip() for text in texts),
            row.get("answer", ()),
            row.get("type", ""),
            content if "content" in row else None,
            row.get("options", ()),
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
    """The JSON value of one line, its numbers as they are written."""

    def unique(pairs: list[tuple[str, Any]]) -> Row:
        row = dict(pairs)
        if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
            raise UserError(f"{place}: {twice[0]!r} is written twice in one object")
        return row

    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=unique, parse_int=Written, parse_float=Written)
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 (byte {error.start + 1} of the line)") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise UserError(f"{place}: JSON nested too deeply") from error


def check_row(row: Any, place: str) -> Row:
    """The row by key, each value in its one form, or a UserError that says what is wrong with it."""
    if not isinstance(row, dict):
        raise UserError(f'{place}: needs an object such as {{"video": "a.mp4", "question": "..."}}')
    for key in row:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(KEYS)}"
            raise UserError(f"{place}: unknown key {key!r}: {hint}")
    row = {key: value for key, value in row.items() if value is not None}
    for key, value in row.items():
        if key not in ("content", "options", "answer"):
            check_text(key, value, place)
            row[key] = str(value)
    if "options" in row:
        row["options"] = plain_options(check_list("options", row["options"], place))
        if not 2 <= len(row["options"]) <= MOST_OPTIONS:
            raise UserError(f"{place}: 'options' are {len(row['options'])}, but must be from 2 to {MOST_OPTIONS}")
    if "answer" in row:
        row["answer"] = check_answers(row["answer"], row.get("options"), place)
    if "content" in row:
        if extra := [key for key in ("question", *KINDS) if key in row]:
            raise UserError(f"{place}: 'content' says all that is shown and asked: leave out {extra[0]!r}")
        row["content"] = check_content(row["content"], place)
        return row
    if "question" not in row:
        raise UserError(f"{place}: 'question' is missing")
    shown = [kind for kind in KINDS if kind in row]
    if not shown:
        raise UserError(f"{place}: 'video' is missing (or 'image'; where there are several media or none, 'content')")
    if len(shown) > 1:
        raise UserError(f"{place}: 'video' stands beside 'image': list several media in 'content'")
    return row


def check_text(key: str, value: Any, place: str) -> None:
    """Raises UserError for what is no text, nor a number where that will do."""
    if not isinstance(value, str) or (isinstance(value, Written) and key not in MAY_BE_NUMBERS):
        also = " or a number" if key in MAY_BE_NUMBERS else " in quotes"
        raise UserError(f"{place}: {key!r} must be text{also}, not {_as_written(value)}")


def check_list(key: str, values: Any, place: str) -> tuple[str, ...]:
    """A list of texts and numbers, as texts; raises UserError for anything else."""
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise UserError(f"{place}: {key!r} must be a list of texts, not {_as_written(values)}")
    return tuple(map(str, values))


def check_answers(answer: Any, options: tuple[str, ...] | None, place: str) -> tuple[str, ...]:
    """All answers that are right, by their letters where there are options; an empty one says that nobody knows."""
    if isinstance(answer, list):
        answers = check_list("answer", answer, place)
    else:
        check_text("answer", answer, place)
        answers = (str(answer),) if answer.strip() else ()
    if options is None:
        return answers
    try:
        return tuple(dict.fromkeys(letter_of(each, options) for each in answers))
    except ValueError as error:
        raise UserError(f"{place}: {error}") from None


def check_content(content: Any, place: str) -> list[dict[str, str]]:
    """Media and texts, each `{kind: value}`; raises UserError for anything but a list of them.

    A part may also be written as in chat messages of transformers: `{"type": "image", "image": "a.png"}`, or `path`.
    """
    if not isinstance(content, list) or not content:
        raise UserError(f'{place}: \'content\' must be a list such as [{{"image": "a.png"}}, {{"text": "..."}}]')
    return [_check_part(part, f"{place}: part {number} of 'content'") for number, part in enumerate(content, start=1)]


def _check_part(part: Any, place: str) -> dict[str, str]:
    kinds = (*KINDS, "text")
    if isinstance(part, dict) and "type" in part:
        kind, rest = part["type"], {key: value for key, value in part.items() if key != "type"}
        if kind in KINDS and list(rest) == ["url"]:
            raise UserError(f"{place} has a 'url': media are files inside data.root; download it, and give its 'path'")
        part = {kind: rest["path"]} if kind in KINDS and list(rest) == ["path"] else rest if kind in rest else part
    good = isinstance(part, dict) and len(part) == 1 and next(iter(part)) in kinds
    value = next(iter(part.values())) if good else None
    if not isinstance(value, str) or isinstance(value, Written):
        raise UserError(f"{place} must be one of {', '.join(kinds)} with a text, not {_as_written(part)}")
    return part


def _as_written(value: Any) -> str:
    """The beginning of a value, as the file writes it."""
    return value if isinstance(value, Written) else json.dumps(value)[:40]
