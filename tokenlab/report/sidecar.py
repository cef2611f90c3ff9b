"""The sidecar of a run: beside a record, its answer's token ids and what became of each visual token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenlab.trace import Trace

TOKENS = "tokens.jsonl"


@dataclass(frozen=True)
class MediumTokens:
    """One medium's token grid, and what an arm left of it.

    Attributes:
        frames: Numbers of the frames that were encoded.
        shapes: Rows and columns of each frame of the token grid.
        fates: A letter a token, frame by frame in raster order: `#` kept, `+` stands for several, `-` went into
            another, `.` gone.
        shown: Height and width of pictures that were made smaller; empty where they have their own size.
    """

    frames: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    fates: str
    shown: tuple[int, ...] = ()


@dataclass(frozen=True)
class AnswerTokens:
    """What is kept beside one record.

    Attributes:
        uid: The sample.
        arm: The arm.
        ids: The answer's token ids, the end of sequence included.
        prompt_tokens: Length of the sequence that the untouched model would read.
        media: In the order of the prompt.
    """

    uid: str
    arm: str
    ids: tuple[int, ...]
    prompt_tokens: int
    media: tuple[MediumTokens, ...]

    @classmethod
    def of(cls, uid: str, arm: str, ids: Sequence[int], trace: Trace) -> AnswerTokens:
        """Reads all off the trace of what was done."""
        media = [
            MediumTokens(each.frames, each.shapes, trace.fates(number), each.shown)
            for number, each in enumerate(trace.media)
        ]
        return cls(uid, arm, tuple(ids), trace.prompt_tokens, tuple(media))

    def to_json(self) -> str:
        """One line of `tokens.jsonl`."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> AnswerTokens:
        """The inverse of `to_json`."""
        found = json.loads(line)
        media = [
            MediumTokens(
                tuple(each["frames"]), tuple(map(tuple, each["shapes"])), each["fates"], tuple(each.get("shown", ()))
            )
            for each in found["media"]
        ]
        return cls(**found | {"ids": tuple(found["ids"]), "media": tuple(media)})


def read_tokens(path: str | Path) -> dict[tuple[str, str], AnswerTokens]:
    """What a `tokens.jsonl` holds, by arm and sample; of a line that was cut off nothing, of two lines the later."""
    if not Path(path).exists():
        return {}
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return {(each.arm, each.uid): each for each in map(AnswerTokens.from_json, lines[:-1])}
