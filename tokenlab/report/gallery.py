"""The gallery of a run: the questions that arms dispute most, each frame with what every arm left of it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

from tokenlab.errors import SampleError
from tokenlab.metrics.answers import normalised
from tokenlab.metrics.record import Record
from tokenlab.report.files import write_whole
from tokenlab.report.overlay import Pictures, strip
from tokenlab.report.sidecar import AnswerTokens
from tokenlab.trace import KEPT

FOLDER, INDEX = "gallery", "gallery.json"
SAMPLES = 40
BYTES = 6_500_000
"""Of all pictures: as base64 in one page they stay well below 10 MB."""


@dataclass(frozen=True)
class GallerySample:
    """One question with its pictures.

    Attributes:
        uid: The question.
        plain: Files of its media as they are.
        arms: By arm, files of its media with what the arm left of them.
    """

    uid: str
    plain: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]


def most_disputed(records: Sequence[Record]) -> list[str]:
    """Questions, first those to which arms give most different answers."""
    answers: dict[str, list[str]] = defaultdict(list)
    for record in records:
        answers[record.uid].append(record.choice or normalised(record.answer or ""))
    return sorted(answers, key=lambda uid: -len(set(answers[uid])))


def draw_gallery(
    folder: Path,
    records: Sequence[Record],
    tokens: Mapping[tuple[str, str], AnswerTokens],
    pictures_of: Callable[[str], Sequence[Pictures]],
) -> None:
    """Draws the questions that are disputed most, as far as their tokens are known, into a folder of the run.

    Args:
        folder: The run's.
        records: All of the run.
        tokens: By arm and question, what became of the tokens.
        pictures_of: What the media of a question look like; raises SampleError where they cannot be read.
    """
    arms = list(dict.fromkeys(record.arm for record in records))
    known = {uid for _, uid in tokens}
    (folder / FOLDER).mkdir(exist_ok=True)
    found, written = [], 0
    for uid in (uid for uid in most_disputed(records) if uid in known):
        if len(found) == SAMPLES or written > BYTES:
            break
        try:
            media = pictures_of(uid)
        except SampleError:
            continue
        files = dict(_files(len(found), media, [(arm, tokens.get((arm, uid))) for arm in arms]))
        for (name, _), picture in files.items():
            (folder / FOLDER / name).write_bytes(picture)
            written += len(picture)
        by_arm: dict[str, list[str]] = defaultdict(list)
        for name, arm in files:
            by_arm[arm].append(name)
        plain = tuple(by_arm.pop("", ()))
        found.append(GallerySample(uid, plain, {arm: tuple(names) for arm, names in by_arm.items()}))
    text = json.dumps([asdict(sample) for sample in found], ensure_ascii=False)
    write_whole(folder / FOLDER / INDEX, text + "\n")


def read_gallery(folder: Path) -> list[GallerySample]:
    """The gallery of a run folder; empty where it has none."""
    index = folder / FOLDER / INDEX
    if not index.exists():
        return []
    rows = json.loads(index.read_text(encoding="utf-8"))
    return [
        GallerySample(row["uid"], tuple(row["plain"]), {arm: tuple(names) for arm, names in row["arms"].items()})
        for row in rows
    ]


def _files(
    number: int, media: Sequence[Pictures], arms: Sequence[tuple[str, AnswerTokens | None]]
) -> Iterator[tuple[tuple[str, str], bytes]]:
    """Name, arm and content of each picture of a question; no arm for the media as they are."""
    for medium, pictures in enumerate(media):
        yield (f"{number}-{medium}.jpg", ""), _jpeg(pictures, None, medium)
        for place, (arm, tokens) in enumerate(arms):
            if tokens is not None and set("".join(each.fates for each in tokens.media)) != {KEPT}:
                yield (f"{number}-{medium}-{place}.jpg", arm), _jpeg(pictures, tokens, medium)


def _jpeg(pictures: Pictures, tokens: AnswerTokens | None, medium: int) -> bytes:
    buffer = BytesIO()
    strip(pictures, None if tokens is None else tokens.media[medium], side=72).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()
