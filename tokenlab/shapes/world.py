"""A rendered video world: a few coloured shapes on a textured background, and one thing happening at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

NUM_FRAMES = 16
SIZE = 64

COLOURS = {
    "red": (215, 45, 45),
    "green": (45, 165, 60),
    "blue": (50, 80, 225),
    "yellow": (230, 215, 60),
    "purple": (150, 60, 190),
    "orange": (240, 140, 40),
    "white": (240, 240, 240),
    "cyan": (70, 210, 220),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
EVENTS = ("moves", "appears", "disappears", "changes")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

_DRAWN = (*EVENTS, *EVENTS, "moves", "changes")
"""Moves (of which rejection sampling loses many) and changes come more often: whole types of question need them."""

FIRST_EVENT, LAST_EVENT, EVENT_GAP = 2, 15, 2
HALVES = ((8, 28), (36, 56))
"""Centres keep clear of the middle lines, so that "top left" is never a matter of opinion."""


@dataclass(frozen=True)
class State:
    """How a thing looks in one frame in which it can be seen."""

    colour: str
    x: float
    y: float


@dataclass(frozen=True)
class Thing:
    """One object and the one event, at most, that happens to it.

    Args:
        colour: colour before any change.
        shape: one of `SHAPES`; no two things of a scene share it.
        radius: in pixels.
        x: centre before any move, in pixels.
        y: centre before any move, in pixels.
        event: one of `EVENTS`, or "stays".
        frame: first frame (from 1) which shows the event; 0 if nothing happens.
        direction: of a move, else "".
        distance: of a move, in pixels.
        becomes: colour after a change, else "".
    """

    colour: str
    shape: str
    radius: float
    x: int
    y: int
    event: str = "stays"
    frame: int = 0
    direction: str = ""
    distance: int = 0
    becomes: str = ""

    @property
    def name(self) -> str:
        """What the questions call it, from its colour at the start: "red circle"."""
        return f"{self.colour} {self.shape}"

    def state(self, frame: int) -> State | None:
        """Its look in a frame (from 1), or None where it is not to be seen."""
        happened = self.event != "stays" and frame >= self.frame
        if (self.event == "appears" and not happened) or (self.event == "disappears" and happened):
            return None
        if self.event == "moves" and happened:
            step = self.distance / (2 if frame == self.frame else 1)
            dx, dy = DIRECTIONS[self.direction]
            return State(self.colour, self.x + dx * step, self.y + dy * step)
        colour = self.becomes if self.event == "changes" and happened else self.colour
        return State(colour, float(self.x), float(self.y))


@dataclass(frozen=True)
class Scene:
    """One video before it is rendered: its things, and the seed which its pixels are drawn from as well."""

    seed: int
    things: tuple[Thing, ...]

    @classmethod
    def from_seed(cls, seed: int) -> "Scene":
        """Draws 2 to 4 things with 1 to 4 events; the same seed gives the same scene for ever."""
        rng = np.random.Generator(np.random.PCG64([seed, 0]))
        num_things = int(rng.integers(2, 5))
        while True:
            plan = _plan(rng, num_things)
            for _ in range(20):
                things = _place(rng, plan)
                if things is not None:
                    return cls(seed, things)

    def states(self, frame: int) -> tuple[State | None, ...]:
        """The look of every thing in a frame (from 1)."""
        return tuple(thing.state(frame) for thing in self.things)


def _plan(rng: np.random.Generator, num_things: int) -> list[dict]:
    """Looks and events of the things, still without places."""
    colours = rng.permutation(list(COLOURS)).tolist()
    shapes = rng.permutation(SHAPES).tolist()
    while True:
        num_events = int(rng.integers(1, num_things + 1))
        events = [_DRAWN[i] for i in rng.integers(0, len(_DRAWN), num_events)]
        # Neither the first nor the last frame may be empty.
        if max(events.count("appears"), events.count("disappears")) < num_things:
            break
    frames = _event_frames(rng, num_events)
    plan = []
    for i in range(num_things):
        look = {"colour": colours.pop(), "shape": shapes.pop(), "radius": 5 + int(rng.integers(0, 9)) / 4}
        if i < num_events:
            look |= {"event": events[i], "frame": frames[i]}
            if events[i] == "moves":
                look |= {
                    "direction": list(DIRECTIONS)[int(rng.integers(0, 4))],
                    "distance": int(rng.integers(20, 27)),
                }
            if events[i] == "changes":
                look |= {"becomes": colours.pop()}
        plan.append(look)
    return plan


def _event_frames(rng: np.random.Generator, num_events: int) -> list[int]:
    """Distinct frames with at least one quiet frame between any two, in random order."""
    slack = LAST_EVENT - FIRST_EVENT - EVENT_GAP * (num_events - 1) + num_events
    frames = np.sort(rng.choice(slack, num_events, replace=False))
    frames = FIRST_EVENT + frames + (EVENT_GAP - 1) * np.arange(num_events)
    return rng.permutation(frames).tolist()


def _place(rng: np.random.Generator, plan: list[dict]) -> tuple[Thing, ...] | None:
    """Gives every thing a place such that none ever touches another, or None after too many tries."""
    things: list[Thing] = []
    tracks: list[Float64[np.ndarray, "16 2"]] = []
    for look in plan:
        for _ in range(20):
            x, y = (int(rng.integers(low, high + 1)) for low, high in (HALVES[i] for i in rng.integers(0, 2, 2)))
            thing = Thing(x=x, y=y, **look)
            track = _track(thing)
            if track is not None and all(
                _apart(track, other, thing.radius + placed.radius + 2)
                for other, placed in zip(tracks, things, strict=True)
            ):
                things.append(thing)
                tracks.append(track)
                break
        else:
            return None
    return tuple(things)


def _track(thing: Thing) -> Float64[np.ndarray, "16 2"] | None:
    """Centres over the frames (NaN while unseen), or None if a move would leave the allowed places."""
    states = [thing.state(frame) for frame in range(1, NUM_FRAMES + 1)]
    end = states[-1]
    if end is not None and not all(any(low <= c <= high for low, high in HALVES) for c in (end.x, end.y)):
        return None
    return np.array([(np.nan, np.nan) if state is None else (state.x, state.y) for state in states])


def _apart(a: Float64[np.ndarray, "16 2"], b: Float64[np.ndarray, "16 2"], distance: float) -> bool:
    """Whether two centres keep a distance in every frame which shows both."""
    return not (((a - b) ** 2).sum(axis=1) < distance**2).any()


_Y, _X = np.mgrid[0:SIZE, 0:SIZE] + 0.5


def coverage(shape: str, radius: float, x: float, y: float) -> Float[np.ndarray, "64 64"]:
    """Share of each pixel, with soft edges, that a shape covers."""
    dx, dy = _X - x, _Y - y
    across, along = np.abs(dx), np.abs(dy)
    if shape == "circle":
        outside = np.sqrt(dx * dx + dy * dy) - radius
    elif shape == "ring":
        outside = np.abs(np.sqrt(dx * dx + dy * dy) - 0.75 * radius) - 0.25 * radius
    elif shape == "square":
        outside = np.maximum(across, along) - 0.88 * radius
    elif shape == "triangle":
        outside = np.maximum((1.8 * across - (dy + radius)) / 2.06, dy - 0.8 * radius)
    else:
        arm = 0.34 * radius
        outside = np.minimum(np.maximum(across - radius, along - arm), np.maximum(along - radius, across - arm))
    return np.clip(0.5 - outside, 0, 1)


def visible_mask(scene: Scene, frame: int) -> Bool[np.ndarray, "64 64"]:
    """Pixels of a frame (from 1) that any thing covers by more than half."""
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    for thing, state in zip(scene.things, scene.states(frame), strict=True):
        if state is not None:
            mask |= coverage(thing.shape, thing.radius, state.x, state.y) > 0.5
    return mask


def render(
    scene: Scene, frames: Sequence[int] = tuple(range(1, NUM_FRAMES + 1))
) -> UInt8[np.ndarray, "frames 64 64 3"]:
    """Draws frames (from 1) with elementwise arithmetic only, so that every machine gives the same bytes."""
    rng = np.random.Generator(np.random.PCG64([scene.seed, 1]))
    background = _background(rng)
    noise = rng.integers(-3, 4, (NUM_FRAMES, SIZE, SIZE, 1))
    drawn: dict[tuple, Float64[np.ndarray, "64 64 3"]] = {}
    video = np.empty((len(frames), SIZE, SIZE, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        states = scene.states(frame)
        if states not in drawn:
            drawn[states] = _draw(scene, states, background)
        video[i] = np.clip(np.rint(drawn[states] + noise[frame - 1]), 0, 255)
    return video


def _background(rng: np.random.Generator) -> Float64[np.ndarray, "64 64 3"]:
    """Soft greyish clouds with a fixed grain."""
    clouds = rng.integers(35, 115, (5, 5, 1)) + rng.integers(-18, 19, (5, 5, 3))
    place = (np.arange(SIZE) + 0.5) / SIZE * 4
    cell = np.minimum(place.astype(int), 3)
    share = (place - cell)[:, None, None]
    rows = clouds[cell] * (1 - share) + clouds[cell + 1] * share
    share = share.transpose(1, 0, 2)
    smooth = rows[:, cell] * (1 - share) + rows[:, cell + 1] * share
    return smooth + rng.integers(-8, 9, (SIZE, SIZE, 1))


def _draw(
    scene: Scene, states: tuple[State | None, ...], background: Float64[np.ndarray, "64 64 3"]
) -> Float64[np.ndarray, "64 64 3"]:
    """The things over the background."""
    image = background
    for thing, state in zip(scene.things, states, strict=True):
        if state is not None:
            alpha = coverage(thing.shape, thing.radius, state.x, state.y)[..., None]
            image = image * (1 - alpha) + alpha * np.array(COLOURS[state.colour], dtype=np.float64)
    return image
