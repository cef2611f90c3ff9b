"""How good a finished checkpoint is, and its model card, in which every figure is a measured one."""

import math
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from rich.progress import Progress
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tokenlab.shapes.questions import TYPES, Question
from tokenlab.shapes.splits import FIRST_SEED

Correct = dict[str, list[bool]]
"""Per question type whether each answer was right."""


@dataclass(frozen=True)
class Run:
    """What a model card tells about the run which made the checkpoint; times in seconds, `total` that of this call."""

    command: str
    seed: int
    clip_seconds: float
    llava_seconds: float
    total_seconds: float
    videos: int


def messages(question: str, frames: Sequence[int]) -> list[dict]:
    """The chat about a video: each frame's number (from 1) and image, then the question."""
    content: list[dict] = []
    for frame in frames:
        content += [{"type": "text", "text": f"f{frame}"}, {"type": "image"}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


@torch.inference_mode()
def evaluate_model(
    checkpoint: Path,
    videos: UInt8[np.ndarray, "videos frames 64 64 3"],
    questions: Sequence[Sequence[Question]],
    progress: Progress,
    shift: int = 0,
) -> Correct:
    """Exact match of plain greedy `generate`; with a shift each question meets the video of another one."""
    processor = AutoProcessor.from_pretrained(checkpoint)
    llava: Any = LlavaForConditionalGeneration.from_pretrained(checkpoint).eval()
    correct: Correct = {type: [] for type in TYPES}
    task = progress.add_task("measured blind" if shift else "measured", total=len(questions), note="")
    for v in range(len(questions)):
        frames = list(videos[(v + shift) % len(videos)])
        chats = [messages(question.text, range(1, len(frames) + 1)) for question in questions[v]]
        texts = [processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
        inputs = processor(text=texts, images=frames * len(texts), padding=True, return_tensors="pt")
        tokens = llava.generate(**inputs, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        for question, answer in zip(
            questions[v], processor.batch_decode(tokens, skip_special_tokens=True), strict=True
        ):
            correct[question.type].append(answer.strip() == question.answer)
        progress.advance(task)
    return correct


def mean(values: Sequence[bool]) -> float:
    """Share of right answers; NaN of none."""
    return sum(values) / len(values) if values else math.nan


def mean_over_types(correct: Correct) -> float:
    """Every type that was asked counts the same."""
    shares = [mean(values) for values in correct.values() if values]
    return sum(shares) / len(shares)


def interval(values: Sequence[bool]) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    n, z = len(values), 1.96
    middle = (sum(values) + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(sum(values) * (n - sum(values)) / n + z * z / 4)
    return middle - half, middle + half


def summary(correct: Correct) -> str:
    """One line: the mean over types, then each type, in per cent."""
    types = "  ".join(f"{type} {100 * mean(correct[type]):.0f}" for type in TYPES if correct.get(type))
    return f"{100 * mean_over_types(correct):.1f} %  {types}"


def write_cards(
    folder: Path, accuracy: Correct, blind: Correct, questions: Sequence[Sequence[Question]], run: Run
) -> None:
    """Writes `README.md` into both checkpoints."""
    table = _table(accuracy, blind, questions)
    facts = _facts(run, len(questions), sum(map(len, accuracy.values())))
    for name, head in (("llava", _LLAVA), ("clip", _CLIP)):
        (folder / name / "README.md").write_text("\n\n".join([head, table, facts, _LIMITS]) + "\n")


def _table(accuracy: Correct, blind: Correct, questions: Sequence[Sequence[Question]]) -> str:
    answers: dict[str, Counter] = {type: Counter() for type in TYPES}
    for question in (question for video in questions for question in video):
        answers[question.type][question.answer] += 1
    lines = [
        "Accuracy (per cent, exact match) of `llava` by type of question:",
        "",
        "| type | n | accuracy | 95 % interval | blind | most frequent answer |",
        "|---|---|---|---|---|---|",
    ]
    majorities = []
    for type in (type for type in TYPES if accuracy[type]):
        low, high = interval(accuracy[type])
        majorities.append(max(answers[type].values()) / answers[type].total())
        shares = f"{100 * mean(accuracy[type]):.1f} | {100 * low:.1f}-{100 * high:.1f} | {100 * mean(blind[type]):.1f}"
        lines.append(f"| {type} | {len(accuracy[type])} | {shares} | {100 * majorities[-1]:.1f} |")
    everything = [value for values in accuracy.values() for value in values]
    low, high = interval(everything)
    overall = f"{100 * mean_over_types(accuracy):.1f} | {100 * low:.1f}-{100 * high:.1f}"
    chance = f"{100 * mean_over_types(blind):.1f} | {100 * sum(majorities) / len(majorities):.1f}"
    lines.append(f"| **mean over types** | {len(everything)} | {overall} | {chance} |")
    return "\n".join(lines)


def _facts(run: Run, num_videos: int, num_questions: int) -> str:
    first = FIRST_SEED["validation"]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy", "av", "decord2"))
    return "\n".join(
        [
            f"Measured on {num_questions} questions about {num_videos} validation videos (seeds {first} to",
            f"{first + num_videos - 1}), never trained on but watched while the recipe was made; the test seeds (from",
            f"{FIRST_SEED['test']}) were not. Videos are H.264 read back through decord; answers are greedy",
            "`generate` of this checkpoint with all frames. *Blind* shows each question another video. The interval is",
            "Wilson's over questions; those of one video are not independent.",
            "",
            f"- command: `{run.command}` (seed {run.seed}, {run.videos} training videos)",
            f"- training: CLIP {run.clip_seconds / 60:.1f} min, LLaVA {run.llava_seconds / 60:.1f} min (all calls of a",
            f"  resumed run); the last call, with these measurements, {run.total_seconds / 60:.1f} min; wall clock on",
            f"  {os.cpu_count()} cores ({platform.machine()}), which other programs may have used as well",
            f"- versions: {versions}, Python {platform.python_version()}",
        ]
    )


_LLAVA = """# tokenlab shapes: a tiny video MLLM

`LlavaForConditionalGeneration` over the vision tower of the CLIP in `../clip`: 64 tokens a frame, features of the
tower's last layer but one. It answers questions about the rendered videos of `tokenlab.shapes` and nothing else. A
frame is an image after its timestamp word, `f1 <image> f2 <image> ... question`; with frames left out the words keep
the true numbers."""

_CLIP = """# tokenlab shapes: a tiny CLIP

`CLIPModel` whose vision tower is the one inside `../llava`; its text side puts words and patches into one space."""

_LIMITS = """Limits: one seed; questions from templates; test videos come from the distribution of the training videos.
Regions in CLIP's training are loose boxes of the renderer, so text and patches agree better than in a CLIP from the
web, and text-guided methods are flattered. Scores on these videos rank implementations; they predict nothing about real
models."""
