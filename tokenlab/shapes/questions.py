"""Questions about a scene, with answers that its state decides."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from tokenlab.shapes.world import NUM_FRAMES, SIZE, Scene, Thing

TYPES = (
    "colour",
    "shape",
    "count",
    "position",
    "motion",
    "event",
    "when",
    "become",
    "mover",
    "first",
    "last",
)
TRAINING_TYPES = ("caption", "frame", "moment", "list")
ALL_FRAMES = tuple(range(1, NUM_FRAMES + 1))

VERBS = {"moves": "move", "appears": "appear", "disappears": "disappear", "changes": "change colour"}
THIRDS = ("early", "middle", "late")
CAPTION_PROMPT = "describe the video ."


@dataclass(frozen=True)
class Question:
    """A question, the one right answer and its type."""

    text: str
    answer: str
    type: str


def third(frame: int) -> str:
    """Part of the video in which a frame (from 1) lies: 1-6, 7-11 or 12-16."""
    return THIRDS[min((max(frame, 2) - 2) // 5, 2)]


def quadrant(x: float, y: float) -> str:
    """Part of the picture in which a centre lies."""
    return f"{'top' if y < SIZE / 2 else 'bottom'} {'left' if x < SIZE / 2 else 'right'}"


def possible_questions(scene: Scene, frames: Sequence[int] = ALL_FRAMES, training: bool = False) -> list[Question]:
    """All legal questions of a scene which can be answered from the given frames (from 1, ascending).

    With frames missing, a question stays only if those shown still decide the answer that the whole video gives.
    `training` adds the types that are never tested.
    """
    seen = {
        thing: (max(f for f in frames if f < thing.frame), min(f for f in frames if f >= thing.frame))
        for thing in scene.things
        if frames[0] < thing.frame <= frames[-1]
    }
    found = [
        *_looks(scene, frames),
        *_counts(scene, frames),
        *_positions(scene, frames),
        *_events(scene, frames, seen),
        *_orders(scene, seen),
    ]
    return [*found, *_training(scene, frames, seen), *_lists(scene, frames)] if training else found


Seen = dict[Thing, tuple[int, int]]
"""For each thing whose event the frames show: the last frame shown before it and the first one after it."""


def _looks(scene: Scene, frames: Sequence[int]) -> list[Question]:
    found = []
    for thing in scene.things:
        if thing.event != "changes" and any(thing.state(frame) for frame in frames):
            found.append(Question(f"what colour is the {thing.shape} ?", thing.colour, "colour"))
            found.append(Question(f"what shape is the {thing.colour} object ?", thing.shape, "shape"))
    return found


def _counts(scene: Scene, frames: Sequence[int]) -> list[Question]:
    found = []
    for place, shown, true in (("start", frames[0], 1), ("end", frames[-1], NUM_FRAMES)):
        number = sum(state is not None for state in scene.states(shown))
        if number == sum(state is not None for state in scene.states(true)):
            found.append(Question(f"how many objects are there at the {place} ?", str(number), "count"))
    return found


def _positions(scene: Scene, frames: Sequence[int]) -> list[Question]:
    found = []
    for thing in scene.things:
        for place, shown, true in (("start", frames[0], 1), ("end", frames[-1], NUM_FRAMES)):
            state = thing.state(true)
            if state is not None and thing.state(shown) == state:
                text = f"where is the {thing.name} at the {place} ?"
                found.append(Question(text, quadrant(state.x, state.y), "position"))
    return found


def _events(scene: Scene, frames: Sequence[int], seen: Seen) -> list[Question]:
    found = []
    for thing in scene.things:
        if thing in seen or (thing.event == "stays" and len(frames) > 1):
            found.append(Question(f"what happens to the {thing.name} ?", thing.event, "event"))
        if thing not in seen:
            continue
        before, after = seen[thing]
        if third(before + 1) == third(after):
            found.append(Question(f"when does the {thing.name} {VERBS[thing.event]} ?", third(after), "when"))
        if thing.event == "moves":
            found.append(Question(f"which way does the {thing.name} move ?", thing.direction, "motion"))
        if thing.event == "changes":
            found.append(Question(f"what colour does the {thing.name} become ?", thing.becomes, "become"))
    movers = [thing for thing in scene.things if thing.event == "moves"]
    if len(movers) == 1 and movers[0] in seen:
        found.append(Question("which object moves ?", movers[0].name, "mover"))
    return found


def _in_order(scene: Scene, seen: Seen) -> list[Thing] | None:
    """The things to which something happens, in order, or None if the frames do not show all of that order."""
    active = sorted((thing for thing in scene.things if thing.frame), key=lambda thing: thing.frame)
    shown = {seen[thing][1] for thing in active if thing in seen}
    return active if len(shown) == len(active) else None


def _orders(scene: Scene, seen: Seen) -> list[Question]:
    order = _in_order(scene, seen)
    if order is None or len(order) < 2:
        return []
    first, last = order[0], order[-1]
    return [
        Question("what happens first ?", f"{first.shape} {first.event}", "first"),
        Question("what happens last ?", f"{last.shape} {last.event}", "last"),
    ]


def _training(scene: Scene, frames: Sequence[int], seen: Seen) -> list[Question]:
    """Where a model sees events in words that it can copy: their order and their frames."""
    found = [
        Question("at what frame does the video start ?", f"f{frames[0]}", "frame"),
        Question("at what frame does the video end ?", f"f{frames[-1]}", "frame"),
    ]
    for thing, (_, after) in seen.items():
        text = f"at what frame does the {thing.name} {VERBS[thing.event]} ?"
        found.append(Question(text, f"f{after}", "frame"))
        found.append(Question(f"what happens at f{after} ?", f"{thing.shape} {thing.event}", "frame"))
    found += _moments(scene, frames, seen)
    order = _in_order(scene, seen)
    if order is not None:
        story = " ".join(f"f{seen[thing][1]} {thing.shape} {thing.event}" for thing in order)
        found.append(Question(CAPTION_PROMPT, story, "caption"))
    return found


def _moments(scene: Scene, frames: Sequence[int], seen: Seen) -> list[Question]:
    """Single frames of what changes in the video: to answer, a model must find a frame, and compare it with others."""
    eventful = {after for _, after in seen.values()}
    found = [
        Question(f"what happens at f{frame} ?", "stays", "moment") for frame in frames[1:] if frame not in eventful
    ]
    for thing in seen:
        for frame in frames:
            state = thing.state(frame)
            if state is None:
                continue
            if thing.event == "moves":
                text = f"where is the {thing.name} at f{frame} ?"
                found.append(Question(text, quadrant(state.x, state.y), "moment"))
            if thing.event == "changes":
                found.append(Question(f"what colour is the {thing.shape} at f{frame} ?", state.colour, "moment"))
    return found


def _lists(scene: Scene, frames: Sequence[int]) -> list[Question]:
    """What single frames show, from left to right: without it a model takes long to tie colours to shapes."""
    found = []
    for frame in frames:
        shown = [(thing, state) for thing, state in zip(scene.things, scene.states(frame), strict=True) if state]
        shown.sort(key=lambda pair: (pair[1].x, pair[1].y))
        words = [f"{state.colour} {thing.shape} {quadrant(state.x, state.y)}" for thing, state in shown]
        if words:
            found.append(Question(f"what is there at f{frame} ?", " ".join(words), "list"))
    return found


def sample_questions(scenes: Sequence[Scene], per_video: int) -> list[list[Question]]:
    """Picks questions such that the types have equal shares and the answers of a type are spread.

    Of len(scenes) x per_video questions every type gets the same number, to within one, as far as the scenes allow
    it. The choice depends on nothing but the scenes.
    """
    pools = [_by_type(scene) for scene in scenes]
    plan = _assign(pools, per_video)
    answers: dict[str, Counter] = {type: Counter() for type in TYPES}
    chosen = []
    for pool, types in zip(pools, plan, strict=True):
        picked: list[Question] = []
        for type in sorted(types, key=TYPES.index):
            free = [question for question in pool[type] if question not in picked]
            best = min(free, key=lambda question: (answers[question.type][question.answer], free.index(question)))
            answers[type][best.answer] += 1
            picked.append(best)
        chosen.append(picked)
    return chosen


def _by_type(scene: Scene) -> dict[str, list[Question]]:
    pool: dict[str, list[Question]] = {type: [] for type in TYPES}
    for question in possible_questions(scene):
        pool[question.type].append(question)
    return pool


def _assign(pools: Sequence[dict[str, list[Question]]], per_video: int) -> list[list[str]]:
    """Types of each video's questions: a flow from types to videos, kept level by adding to the least served type.

    A full video takes a further type by handing one of its own to another video (an augmenting path).
    """
    plan: list[list[str]] = [[] for _ in pools]
    served = Counter(dict.fromkeys(TYPES, 0))
    open_types = set(TYPES)
    for _ in range(sum(min(per_video, sum(map(len, pool.values()))) for pool in pools)):
        for type in sorted(open_types, key=lambda type: (served[type], TYPES.index(type))):
            if _augment(plan, pools, per_video, type):
                served[type] += 1
                break
            open_types.discard(type)
    return plan


def _augment(plan: list[list[str]], pools: Sequence[dict[str, list[Question]]], per_video: int, type: str) -> bool:
    """Adds one question of a type, moving others between videos if it must; False if that is impossible."""
    queue = deque([type])
    reached: dict[str, tuple[int, str] | None] = {type: None}
    while queue:
        wanted = queue.popleft()
        able = [v for v, pool in enumerate(pools) if plan[v].count(wanted) < len(pool[wanted])]
        room = [v for v in able if len(plan[v]) < per_video]
        if room:
            # The emptiest video first, and fresh types before repeated ones.
            video = min(room, key=lambda v: (plan[v].count(wanted), len(plan[v]), v))
            plan[video].append(wanted)
            while (step := reached[wanted]) is not None:
                video, before = step
                plan[video].remove(wanted)
                plan[video].append(before)
                wanted = before
            return True
        for video in able:
            for other in plan[video]:
                if other not in reached:
                    reached[other] = (video, wanted)
                    queue.append(other)
    return False
