"""A method that raises, at whichever stage, or decides what cannot be, fails those samples and no other."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from tests.models.harness import Harness
from tokenlab.compressors import CacheReduction, FrameSelection, GridReduction, LayerReduction, Pipeline, TowerReduction
from tokenlab.reduction import Reduction
from tokenlab.testing.media import video_clips


class Choosy:
    """Cannot act on long videos."""

    retention_ratio: float = 0.5

    def keep_or_raise(self, tokens: int, limit: int) -> Reduction:
        if tokens > limit:
            raise ValueError(f"{tokens} are too many")
        return Reduction.keep(torch.arange(tokens), tokens)


@dataclass(frozen=True, kw_only=True)
class ChoosyFrames(Choosy, FrameSelection):
    name: ClassVar[str] = "choosy"
    limit: int = 0

    def select_frames(self, view):
        return self.keep_or_raise(view.num_frames, self.limit)


@dataclass(frozen=True, kw_only=True)
class ChoosyTower(Choosy, TowerReduction):
    name: ClassVar[str] = "choosy"
    limit: int = 0

    def reduce_block(self, view, state):
        self.keep_or_raise(view.size.shape[0], self.limit)
        return Reduction.keep(torch.arange(view.size.numel()), view.size.numel()), state


@dataclass(frozen=True, kw_only=True)
class ChoosyGrid(Choosy, GridReduction):
    name: ClassVar[str] = "choosy"
    limit: int = 0

    def reduce_grid(self, view):
        return self.keep_or_raise(view.tokens.num_tokens, self.limit)


@dataclass(frozen=True, kw_only=True)
class ChoosyLayers(Choosy, LayerReduction):
    name: ClassVar[str] = "choosy"
    limit: int = 0

    def points(self, num_layers):
        return [(1, "before_attention")]

    def reduce_layer(self, view, state):
        return self.keep_or_raise(len(view.visual), self.limit), state


@dataclass(frozen=True, kw_only=True)
class ChoosyCache(Choosy, CacheReduction):
    name: ClassVar[str] = "choosy"
    limit: int = 0

    def cache_layers(self, num_layers):
        return [1]

    def reduce_cache(self, view, state):
        return self.keep_or_raise(len(view.visual), self.limit), state


@dataclass(frozen=True, kw_only=True)
class Aimless(Choosy, LayerReduction):
    name: ClassVar[str] = "choosy"
    limit: int = 0

    def points(self, num_layers):
        raise ValueError(f"{num_layers} layers are too many")

    def reduce_layer(self, view, state):
        raise NotImplementedError


@pytest.fixture(scope="module")
def llava(checkpoints) -> Harness:
    return Harness.of(str(checkpoints["llava"]), video_clips())


@pytest.mark.parametrize("method", [ChoosyFrames, ChoosyTower, ChoosyGrid, ChoosyLayers, ChoosyCache])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_only_the_samples_that_it_raises_for_fail(llava, method, batch_size):
    full = {answer.sample.uid: answer for answer in llava.answers(Pipeline())}
    frames = {sample.uid: len(clip.numbers) for clip, sample in llava.samples()}
    shortest = min(frames.values())
    per_frame = 1 if method in (ChoosyFrames, ChoosyTower) else llava.answers(Pipeline())[0].trace.grids[0][1] ** 2
    pipeline = Pipeline((method(retention_ratio=0.5, limit=shortest * per_frame),))
    answers = llava.answers(pipeline, batch_size=batch_size)
    assert {answer.sample.uid for answer in answers} == set(full)
    for answer in answers:
        if frames[answer.sample.uid] > shortest:
            assert answer.error is not None
            assert "choosy cannot act on this medium" in answer.error
        else:
            assert (answer.error, answer.ids) == (None, full[answer.sample.uid].ids)
    assert {answer.error is None for answer in answers} == {True, False}


def test_a_method_that_cannot_say_where_it_acts_fails_every_sample(llava):
    answers = llava.answers(Pipeline((Aimless(retention_ratio=0.5),)))
    assert answers
    assert all("choosy cannot act on this medium: 3 layers are too many" in answer.error for answer in answers)


def out_of_range(tokens: int) -> Reduction:
    return Reduction.keep(torch.tensor([tokens]), tokens)


def out_of_order(tokens: int) -> Reduction:
    return Reduction.keep(torch.tensor([1, 0]), tokens)


def no_number(tokens: int) -> Reduction:
    one = torch.tensor([0])
    return Reduction.merge(one, one, one, torch.tensor([torch.nan]), tokens)


def other_tokens(tokens: int) -> Reduction:
    return Reduction.keep(torch.tensor([0]), tokens + 1)


def nothing(tokens: int) -> None:
    return None


def crash(tokens: int) -> Reduction:
    raise RuntimeError("a tensor of the wrong size\nand more")


@dataclass(frozen=True, kw_only=True)
class Wrong(GridReduction):
    name: ClassVar[str] = "wrong"
    decide: Callable[[int], Reduction | None]

    def reduce_grid(self, view):
        return self.decide(view.tokens.num_tokens)


@dataclass(frozen=True, kw_only=True)
class WrongInLayers(LayerReduction):
    name: ClassVar[str] = "wrong"
    decide: Callable[[int], Reduction | None]

    def points(self, num_layers):
        return [(1, "before_attention")]

    def reduce_layer(self, view, state):
        return self.decide(len(view.visual)), state


WRONG = {
    out_of_range: r"wrong cannot act on this medium: a reduction of \d+ tokens names token \d+",
    out_of_order: "wrong cannot act on this medium: slots stand out of the order of their anchors",
    no_number: "wrong cannot act on this medium: a reduction merges with a weight that is not finite",
    other_tokens: r"wrong cannot act on this medium: a reduction of \d+ tokens was decided for \d+",
    nothing: "wrong fails on this medium: AttributeError: ",
    crash: "wrong fails on this medium: RuntimeError: a tensor of the wrong size$",
}


@pytest.mark.parametrize("method", [Wrong, WrongInLayers])
@pytest.mark.parametrize("decide", WRONG, ids=lambda decide: decide.__name__)
def test_a_wrong_decision_fails_the_sample_with_the_methods_name(llava, method, decide):
    answers = llava.answers(Pipeline((method(retention_ratio=0.5, decide=decide),)), batch_size=4)
    assert len(answers) == len(llava.samples())
    for answer in answers:
        assert re.match(WRONG[decide], answer.error)
