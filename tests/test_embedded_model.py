"""The embedded model on its own videos: exact, trained, and told from an untrained one."""

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.reference.prompts import Reference
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.data import DATASETS
from tokenlab.data.media.video import decode
from tokenlab.data.samples import Clip
from tokenlab.metrics.answers import exact_match
from tokenlab.models.checkpoint import EMBEDDED
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.settings import MLLM
from tokenlab.shapes.network import untrained

NEW_TOKENS = 8


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    """The quickstart's videos and questions."""
    data = DATASETS["shapes"](num_videos=70, questions_per_video=3, folder=str(tmp_path_factory.mktemp("shapes")))
    data.prepare_data()
    return [
        Clip(entry.cluster, entry.samples, (decode(entry.media[0].path, 16),)) for entry in data.entries("validation")
    ]


def ask(checkpoint: str, clips: list[Clip], pipeline: Pipeline, batch_size: int = 4) -> dict[str, tuple[int, ...]]:
    return {answer.sample.uid: answer.ids for answer in answers(checkpoint, clips, pipeline, batch_size)}


def answers(checkpoint: str, clips: list[Clip], pipeline: Pipeline, batch_size: int = 4) -> list:
    mllm = LoadedModel.load(MLLM(checkpoint=checkpoint, max_new_tokens=NEW_TOKENS, batch_size=batch_size))
    return [a for clip in clips for a in mllm.answer([clip], pipeline, EncodeCache(pipeline.needs()))]


def accuracy(given: list) -> float:
    right = [exact_match(answer.text, *answer.sample.answers) for answer in given]
    return sum(right) / len(right)


@pytest.mark.slow
def test_full_equals_plain_generate_on_every_question(clips):
    """The processor's own output for each whole prompt, through unmodified greedy `generate`."""
    reference = Reference(str(EMBEDDED["shapes"]))
    plain = {
        sample.uid: tuple(reference.plain([*clip.media, sample.question], NEW_TOKENS))
        for clip in clips
        for sample in clip.samples
    }
    assert ask("shapes", clips, Pipeline()) == plain


@pytest.mark.slow
@pytest.mark.parametrize("names", [("topic",), ("similarity", "text")])
def test_reduced_equals_the_reference(clips, names):
    reference, clips = Reference(str(EMBEDDED["shapes"])), clips[:4]
    pipeline = Pipeline(tuple(REGISTRY[name](retention_ratio=0.25) for name in names))
    by_hand = {
        sample.uid: tuple(reference.reduced([*clip.media, sample.question], sample, pipeline, NEW_TOKENS))
        for clip in clips
        for sample in clip.samples
    }
    assert ask("shapes", clips, pipeline) == by_hand


@pytest.mark.slow
def test_it_is_trained_and_an_untrained_one_is_not(clips, tmp_path):
    """Same config, other weights: accuracy falls below chance."""
    untrained(tmp_path, seed=1)
    assert accuracy(answers("shapes", clips[:30], Pipeline())) > 0.4
    assert accuracy(answers(str(tmp_path / "llava"), clips[:30], Pipeline())) < 0.3


def test_it_loads_with_plain_transformers():
    folder = EMBEDDED["shapes"]
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    assert AutoProcessor.from_pretrained(folder).chat_template
    assert model.config.frame_text == "f{number}"
