"""The files of a run folder that several parts of a report read or write."""

from __future__ import annotations

from pathlib import Path

RECORDS, CONFIG, ENVIRONMENT = "records.jsonl", "config.yaml", "environment.json"


def write_whole(path: Path, text: str) -> None:
    """Writes all or nothing: a reader never sees half a file."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
