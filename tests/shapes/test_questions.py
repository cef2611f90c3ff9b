from collections import Counter

import pytest

from tokenlab.shapes.network import vocabulary
from tokenlab.shapes.questions import ALL_FRAMES, TYPES, Question, possible_questions, sample_questions
from tokenlab.shapes.splits import seeds
from tokenlab.shapes.world import NUM_FRAMES, Scene, State, Thing

SCENES = [Scene.from_seed(seed) for seed in seeds("train", 150)]


def looks(thing: Thing) -> list[State | None]:
    return [thing.state(frame) for frame in range(1, NUM_FRAMES + 1)]


def change(thing: Thing) -> int | None:
    """First frame (from 1) which differs from the one before it."""
    states = looks(thing)
    return next((i + 1 for i in range(1, NUM_FRAMES) if states[i] != states[i - 1]), None)


def what_happens(thing: Thing) -> str:
    start, *_, end = looks(thing)
    if start == end:
        return "stays"
    if start is None or end is None:
        return "appears" if start is None else "disappears"
    return "changes" if start.colour != end.colour else "moves"


def which_way(thing: Thing) -> str:
    start, *_, end = looks(thing)
    if start.y == end.y:
        return "left" if end.x < start.x else "right"
    return "up" if end.y < start.y else "down"


def place(thing: Thing, frame: int) -> str:
    state = thing.state(frame)
    return ("top" if state.y < 32 else "bottom") + (" left" if state.x < 32 else " right")


def recomputed(scene: Scene, question: Question) -> str:
    """The answer, from nothing but the looks of the things frame by frame."""
    words = question.text.split()
    by_word = {word: thing for thing in scene.things for word in (thing.shape, thing.colour)}
    asked = next((by_word[word] for word in reversed(words) if word in by_word), None)
    moving = sorted((thing for thing in scene.things if change(thing)), key=change)
    frame = NUM_FRAMES if "end" in words else 1
    return {
        "colour": lambda: next(state.colour for state in looks(asked) if state),
        "shape": lambda: asked.shape,
        "count": lambda: str(sum(state is not None for state in scene.states(frame))),
        "position": lambda: place(asked, frame),
        "motion": lambda: which_way(asked),
        "event": lambda: what_happens(asked),
        "when": lambda: ("early", "middle", "late")[(change(asked) > 6) + (change(asked) > 11)],
        "become": lambda: looks(asked)[-1].colour,
        "mover": lambda: next(thing.name for thing in scene.things if what_happens(thing) == "moves"),
        "first": lambda: f"{moving[0].shape} {what_happens(moving[0])}",
        "last": lambda: f"{moving[-1].shape} {what_happens(moving[-1])}",
    }[question.type]()


def test_every_answer_is_right() -> None:
    asked = [(scene, question) for scene in SCENES for question in possible_questions(scene)]
    assert {question.type for _, question in asked} == set(TYPES)
    for scene, question in asked:
        assert question.answer == recomputed(scene, question), question


def test_every_word_is_known() -> None:
    known = set(vocabulary())
    for scene in SCENES:
        for question in possible_questions(scene, training=True):
            assert set(f"{question.text} {question.answer}".split()) <= known


def test_no_question_is_asked_twice() -> None:
    for scene in SCENES:
        texts = [question.text for question in possible_questions(scene)]
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("frames", [(1, 16), (1, 2, 9, 10, 16), (5,), (3, 4, 12)])
def test_missing_frames_change_no_answer(frames: tuple[int, ...]) -> None:
    for scene in SCENES:
        assert set(possible_questions(scene, frames)) <= set(possible_questions(scene, ALL_FRAMES))


def test_what_was_not_shown_is_not_asked() -> None:
    scene = next(scene for scene in SCENES if any(thing.event == "appears" for thing in scene.things))
    thing = next(thing for thing in scene.things if thing.event == "appears")
    before = range(1, thing.frame)
    assert not any(thing.shape in question.text for question in possible_questions(scene, before))


@pytest.mark.parametrize(("videos", "per_video"), [(70, 3), (100, 3), (11, 1), (200, 4)])
def test_types_have_equal_shares(videos: int, per_video: int) -> None:
    chosen = sample_questions([Scene.from_seed(seed) for seed in seeds("validation", videos)], per_video)
    assert [len(set(asked)) for asked in chosen] == [per_video] * videos
    counts = Counter(question.type for asked in chosen for question in asked)
    assert set(counts) == set(TYPES)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_answers_are_spread() -> None:
    chosen = sample_questions(SCENES, 3)
    for type in TYPES:
        answers = Counter(question.answer for asked in chosen for question in asked if question.type == type)
        assert max(answers.values()) / answers.total() < 0.36, type


def test_the_choice_repeats() -> None:
    assert sample_questions(SCENES[:50], 3) == sample_questions(SCENES[:50], 3)
