"""Words: the field's stand where a reader looks for them, and private ones are no identifiers any more."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tokenlab"

FOUND_IN = {
    "hook": "models/hooks.py",
    "hooks inside the LLM": "models/llm/layer_hooks.py",
    "hooks inside the vision tower": "models/vision/tower_hooks.py",
    "kv_cache": "models/scoring.py",
    "cache": "models/hf.py",
    "position_ids": "models/prompt/batch.py",
    "position ids": "tokens/positions.py",
    "attention masks": "models/llm/masks.py",
    "flops": "models/costs/flops.py",
    "dry run": "models/costs/dry_run.py",
    "padding": "tokens/padding.py",
    "LLaVA-OneVision": "models/families/llava.py",
    "LLaVA-NeXT-Video": "models/families/llava.py",
    "Video-LLaVA": "models/families/llava.py",
    "LLaVA-1.5": "models/families/llava.py",
    "Qwen2-VL": "models/families/qwen.py",
    "Qwen2.5-VL": "models/families/qwen.py",
    "Qwen3-VL": "models/families/qwen.py",
    "InternVL3": "models/families/tiled.py",
    "SmolVLM2": "models/families/tiled.py",
}
"""Where a reader who knows transformers finds a thing by grep."""

PRIVATE = {
    *("Entry", "Passage", "Riders", "rider", "walk", "walked", "BlockWalk", "TowerCut", "since", "TowerMethod", "fed"),
    *("behind", "enter", "listening", "listen", "hear", "Heard", "heard", "heard_at", "paid", "paid_in", "sight"),
    *("decode_sight", "choose_sight", "hide", "narrow", "hidden_sources", "Columns", "Move", "Arrangement", "arrange"),
    *("edits", "orphaned", "survivors", "alive", "lives", "Rewrite", "Rewriting", "composed", "Reduced", "overhang"),
    *("reduced_prompts", "reductions_inside", "FrozenMLLM", "around", "untouched", "finished", "untouched_medium"),
    *("after_first_call", "rehearsal", "rehearse", "played", "Noise", "MEDIA", "Counts", "vision_side", "VisionSide"),
    *("FixedFrames", "PackedPatches", "counted", "READS_VALUES", "spared", "PLACES", "turned", "rotated", "moved"),
    *("project", "projected", "Encodings", "Shown", "Processed", "Reading", "reading", "item_per_frame", "closing"),
    *("joint", "last_tag", "nested", "fewest_frames", "takes_tensor", "extras", "still", "told", "asked", "given"),
    *("mine", "near_miss", "one_line", "quieten", "refusal", "remark", "lacks", "Layout", "spread"),
}
"""Words that nobody else in the field uses for these things."""


def identifiers(path: Path) -> set[str]:
    """All names that a file defines or uses: variables, attributes, arguments, functions, classes."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
    return {name.strip("_") for name in found if not name.startswith("__")}  # Python's own protocols have their names


@pytest.mark.parametrize("word", FOUND_IN)
def test_a_word_of_the_field_is_found(word):
    text = (PACKAGE / FOUND_IN[word]).read_text(encoding="utf-8")
    assert re.search(re.escape(word).replace("\\ ", "[ _]"), text, re.IGNORECASE)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_words_are_no_identifiers(path):
    assert sorted(identifiers(path) & PRIVATE) == []
