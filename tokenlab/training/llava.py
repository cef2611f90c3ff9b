"""Second stage: a projector and a Llama learn to answer about cached features of the frozen tower."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from tokenlab.shapes.network import GRID, PATCH, vocabulary
from tokenlab.shapes.questions import TRAINING_TYPES, TYPES, Question, possible_questions
from tokenlab.shapes.world import NUM_FRAMES, Scene
from tokenlab.training.sequence_packing import PackedText, packed_hidden, patches_of, readout

WORD_IDS = {word: i for i, word in enumerate(vocabulary())}
IGNORED = -100
NOBODY = -1

WEIGHTS = dict.fromkeys((*TYPES, *TRAINING_TYPES), 1.0) | {
    "colour": 0.4,
    "shape": 0.5,
    "when": 2.0,
    "mover": 1.5,
    "first": 6.0,
    "last": 6.0,
    "frame": 3.0,
    "moment": 1.5,
}
"""How often the types are chosen relative to one another: what is hard to learn more often."""

DENSE = 0.5
"""How much counts what patches know, next to the answers."""

CENTRES = (np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID)), -1).reshape(-1, 2) + 0.5) * PATCH
"""Of the patches, in pixels: x, y."""


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum.

    Args:
        until: number of steps after which the next phase begins.
        fewest: frames shown, at least.
        most: frames shown, at most.
        share_of_most: how often it is that many; otherwise every number is as likely.
        frames_per_batch: videos are batched up to this number of frames.
        lists: how often lists are chosen for, relative to other types: early on they teach most, later they only take
            room.
    """

    until: int
    fewest: int
    most: int
    share_of_most: float
    frames_per_batch: int
    lists: float = 0.5


@dataclass
class LlavaBatch:
    """Videos as token ids and features, their questions with answers, and the word to be predicted after each word.

    `happening` says for each patch, in three words, what has just happened there; only training needs it.
    """

    features: Float[Tensor, "videos frames patches width"]
    timestamps: Int[Tensor, "videos frames"]
    text: PackedText
    targets: Int[Tensor, "videos length"]
    happening: Int[Tensor, "videos frames patches 3"] | None = None


def ids(text: str) -> list[int]:
    """Token ids of words which are all known."""
    return [WORD_IDS[word] for word in text.split()]


OPENING = torch.tensor(ids("<bos> user"))


def llava_batch(
    features: Float[np.ndarray, "videos 16 patches width"],
    scenes: Sequence[Scene],
    phase: Phase,
    rng: np.random.Generator,
    questions_per_video: int = 18,
    most_videos: int = 24,
) -> LlavaBatch:
    """Videos with one number of frames, chosen without any regularity, and questions which those frames decide."""
    always_most = rng.random() < phase.share_of_most
    num_frames = phase.most if always_most else int(rng.integers(phase.fewest, phase.most + 1))
    size = min(most_videos, max(1, round(phase.frames_per_batch / num_frames)), len(scenes))
    videos = rng.choice(len(scenes), size, replace=False)
    frames = np.sort(np.stack([rng.choice(NUM_FRAMES, num_frames, replace=False) for _ in videos]), axis=1)
    chosen = []
    for video, shown in zip(videos, frames, strict=True):
        pool = possible_questions(scenes[video], (shown + 1).tolist(), training=True)
        chosen.append(_draw(pool, questions_per_video, phase.lists, rng))
    batch = make_batch(features[videos[:, None], frames], frames, chosen)
    happening = [event_words(scenes[video], shown + 1) for video, shown in zip(videos, frames, strict=True)]
    return replace(batch, happening=torch.from_numpy(np.stack(happening)))


def _draw(pool: Sequence[Question], number: int, lists: float, rng: np.random.Generator) -> list[Question]:
    """Questions without repetition, types by their weights (the largest u^(1/w) win)."""
    count = Counter(question.type for question in pool)
    weights = WEIGHTS | {"list": lists}
    keys = [rng.random() ** (count[question.type] / weights[question.type]) for question in pool]
    return [pool[i] for i in np.argsort(keys)[::-1][:number]]


def make_batch(
    features: Float[np.ndarray, "videos frames patches width"],
    frames: Int[np.ndarray, "videos frames"],
    questions: Sequence[Sequence[Question]],
) -> LlavaBatch:
    """Packs questions and answers; only answers and the <eos> after them are targets."""
    rows: list[list[tuple[int, int, int, int]]] = []
    for video in questions:
        row = []
        for number, question in enumerate(video):
            prompt, answer = ids(f"{question.text} assistant"), ids(f"{question.answer} <eos>")
            words = [*prompt, *answer]
            targets = [IGNORED] * (len(prompt) - 1) + answer
            row += [(words[i], number, i, targets[i]) for i in range(len(targets))]
        rows.append(row)
    length = max(map(len, rows))
    padding = (WORD_IDS["<pad>"], NOBODY, 0, IGNORED)
    words, owners, places, targets = torch.tensor([row + [padding] * (length - len(row)) for row in rows]).unbind(-1)
    timestamps = torch.from_numpy(frames) + WORD_IDS["f1"]
    return LlavaBatch(torch.tensor(features), timestamps, PackedText(words, owners, places), targets)


def event_words(scene: Scene, frames: Int[np.ndarray, " frames"]) -> Int[np.ndarray, "frames patches 3"]:
    """For each patch of the frames shown (from 1) what it shows for the first time, as "f7 circle moves", or "stays".

    "stays" stands three times.
    """
    words = np.full((len(frames), GRID**2, 3), WORD_IDS["stays"])
    for thing in scene.things:
        shown = int(np.searchsorted(frames, thing.frame))
        if not thing.frame or shown in (0, len(frames)):
            continue
        state = thing.state(int(frames[shown])) or thing.state(int(frames[shown - 1]))
        assert state is not None
        near = ((CENTRES - (state.x, state.y)) ** 2).sum(1) < (thing.radius + 1) ** 2
        words[shown, near] = ids(f"f{frames[shown]} {thing.shape} {thing.event}")
    return words


def logits(llava: LlavaForConditionalGeneration, batch: LlavaBatch) -> Float[Tensor, "videos length words"]:
    """Next-word logits of the batch."""
    return readout(llava, _hidden(llava, batch)[-1])


def _hidden(llava: LlavaForConditionalGeneration, batch: LlavaBatch) -> list[Tensor]:
    return packed_hidden(llava, batch.features.float(), OPENING, batch.timestamps, batch.text)


def llava_loss(llava: LlavaForConditionalGeneration, batch: LlavaBatch) -> Tensor:
    """Mean cross-entropy of the answers' words, and what patches should know on the way to them.

    Answers alone leave a model at chance about time for thousands of steps: it needs patches that know their frame and
    what has changed since the frame before, and hears of neither. So after the second layer every patch is chosen for
    its frame's timestamp, and after the third for what happens there; eventful and quiet patches count the same. That
    it says when and to what, not only how, is what lets the last layer find the first and the last event.
    """
    _, second, third, text = _hidden(llava, batch)
    loss = F.cross_entropy(readout(llava, text).flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
    if batch.happening is None:
        return loss
    num_frames = batch.timestamps.shape[1]
    times = batch.timestamps[:, :, None].expand(batch.happening.shape[:3])
    knows_time = F.cross_entropy(readout(llava, patches_of(second, num_frames)).flatten(0, 2), times.flatten())
    # Three right answers at once, each of which should get a third of the probability.
    said = readout(llava, patches_of(third, num_frames)).log_softmax(-1)
    error = -said.gather(-1, batch.happening).mean(-1)
    quiet = batch.happening[..., 0] == WORD_IDS["stays"]
    knows_event = (error * quiet).sum() / quiet.sum() + (error * ~quiet).sum() / (~quiet).sum().clamp(min=1)
    return loss + DENSE * (knows_time + knows_event / 2)


@torch.no_grad()
def packed_correct(
    llava: LlavaForConditionalGeneration,
    features: Float[np.ndarray, "videos frames patches width"],
    questions: Sequence[Sequence[Question]],
) -> dict[str, list[bool]]:
    """Per type whether each answer over all frames is right, word by word to the <eos>: as greedy decoding would be."""
    correct: dict[str, list[bool]] = {}
    for begin in range(0, len(questions), 8):
        part = list(questions[begin : begin + 8])
        frames = np.tile(np.arange(NUM_FRAMES), (len(part), 1))
        batch = make_batch(features[begin : begin + 8], frames, part)
        guessed = logits(llava, batch).argmax(-1)
        wrong = (guessed != batch.targets) & (batch.targets != IGNORED)
        for v, video in enumerate(part):
            missed = set(batch.text.owners[v, wrong[v]].tolist())
            for number, question in enumerate(video):
                correct.setdefault(question.type, []).append(number not in missed)
    return correct
