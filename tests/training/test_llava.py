"""What the second stage of training tells the model about single patches and single frames."""

import numpy as np
import pytest
import torch

from tokenlab.shapes import network
from tokenlab.shapes.questions import possible_questions, quadrant
from tokenlab.shapes.splits import seeds
from tokenlab.shapes.world import NUM_FRAMES, Scene, visible_mask
from tokenlab.training.llava import WORD_IDS, Phase, event_words, llava_batch, llava_loss

SCENES = [Scene.from_seed(seed) for seed in seeds("train", 40)]
QUIET = WORD_IDS["stays"]
WORDS = list(WORD_IDS)


@pytest.mark.parametrize("frames", [tuple(range(1, NUM_FRAMES + 1)), (2, 5, 6, 11, 16)])
def test_patches_say_what_happens_where_it_does(frames: tuple[int, ...]) -> None:
    for scene in SCENES:
        words = event_words(scene, np.array(frames))
        happened = {f"{thing.shape} {thing.event}": [] for thing in scene.things}
        for thing in scene.things:
            after = [k for k, frame in enumerate(frames) if frame >= thing.frame]
            if thing.frame > frames[0] and after:
                happened[f"{thing.shape} {thing.event}"].append(after[0])
        for k in range(len(frames)):
            said = {" ".join(WORDS[word] for word in patch) for patch in words[k].tolist()} - {"stays stays stays"}
            true = {f"f{frames[k]} {event}" for event, when in happened.items() if k in when}
            # where frames are missing, a later event may hide an earlier one in the same place
            assert said == true or (len(frames) < NUM_FRAMES and said and said < true)
            here = visible_mask(scene, frames[k])
            before = visible_mask(scene, frames[max(0, k - 1)])
            patches = (here | before).reshape(8, 8, 8, 8).any((1, 3)).flatten()
            assert patches[words[k, :, 0] != QUIET].all()


def test_moments_are_true() -> None:
    for scene in SCENES:
        for question in possible_questions(scene, training=True):
            if question.type != "moment":
                continue
            frame = int(question.text.split(" f")[1].split()[0])
            if question.text.startswith("what happens"):
                assert scene.states(frame) == scene.states(frame - 1) or any(
                    thing.event == "moves" and thing.frame == frame - 1 for thing in scene.things
                )
                continue
            (state,) = [
                state
                for thing, state in zip(scene.things, scene.states(frame), strict=True)
                if thing.shape in question.text
            ]
            assert state is not None
            assert question.answer in (state.colour, quadrant(state.x, state.y))


def test_what_patches_should_know_is_part_of_the_loss() -> None:
    _, llava = network.new_models(0)
    features = np.random.default_rng(0).normal(size=(len(SCENES), NUM_FRAMES, 64, 128)).astype(np.float16)
    batch = llava_batch(features, SCENES, Phase(1, 6, 6, 1.0, 24), np.random.default_rng(1))
    assert batch.happening is not None
    assert (batch.happening != QUIET).any()
    with torch.no_grad():
        whole = float(llava_loss(llava, batch))
        batch.happening = None
        answers = float(llava_loss(llava, batch))
    assert whole > answers + 1
