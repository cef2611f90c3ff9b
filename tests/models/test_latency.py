"""The stopwatch on real queries: every moment belongs to one stage, and each arm is measured by itself."""

import time
from collections import Counter
from dataclasses import replace

import pytest
import torch

from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.models.clock import running, stage, stopwatch
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.latency import time_arms
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.settings import MLLM
from tokenlab.testing.media import video_clips

CPU = torch.device("cpu")
ARMS = {name: Pipeline((REGISTRY[name](retention_ratio=0.4),)) for name in ("topic", "fastv", "aks")}
ARMS["full"] = Pipeline()


@pytest.fixture(scope="module")
def mllm(checkpoints) -> LoadedModel:
    return LoadedModel.load(
        MLLM(checkpoint=str(checkpoints["llava_onevision"]), max_new_tokens=4, auxiliary={"clip": "shapes"})
    )


def questions(clips, arms=ARMS):
    return [(clip, sample, arms) for clip in clips for sample in clip.samples]


def test_the_innermost_stage_is_charged():
    with stopwatch(CPU) as watch:
        time.sleep(0.01)
        with stage("prefill"):
            time.sleep(0.02)
            with stage("decide"):
                time.sleep(0.04)
            watch.step()
            time.sleep(0.08)
            watch.step()
    assert running() is None
    found = watch.milliseconds
    for name, least in (("prompt", 10), ("prefill", 20), ("decide", 40), ("decode", 80)):
        assert least <= found[name] < 2 * least + 20
    assert watch.steps == [pytest.approx(found["decode"], abs=5)]


def test_stages_claim_nothing_where_no_stopwatch_runs():
    with stage("decide"):
        assert running() is None


def test_every_arm_answers_every_question_as_it_does_in_a_run(mllm):
    clip = video_clips()[0]
    found = list(time_arms(mllm, questions([replace(clip, decode_milliseconds=7.0)])))
    assert Counter(timed.arm for timed in found) == dict.fromkeys(ARMS, len(clip.samples))
    for timed in found:
        arm = ARMS[timed.arm]
        answers = {answer.sample: answer for answer in mllm.answer([clip], arm, EncodeCache(arm.needs()))}
        answer = answers[timed.answer.sample]
        assert timed.answer.ids == answer.ids
        assert timed.milliseconds["file"] == 7
        assert len(timed.steps) == len(answer.ids) - 1
        assert sum(timed.steps) == pytest.approx(timed.milliseconds.get("decode", 0.0), rel=0.5, abs=2)
        assert timed.kernels
        assert timed.peak_memory_bytes is None  # a CPU does not tell


def test_an_arm_is_charged_with_what_it_does(mllm):
    stages = {timed.arm: set(timed.milliseconds) for timed in time_arms(mllm, questions(video_clips()[:1]))}
    always = {"file", "processing", "tower", "prompt", "prefill", "decode"}
    assert stages["full"] == always
    assert stages["topic"] == stages["fastv"] == always | {"decide", "apply"}
    assert stages["aks"] == always | {"decide", "auxiliary"}


def test_nothing_another_arm_computed_is_at_hand(mllm, monkeypatch):
    encoded, stock = [], LoadedModel.encode

    def noting(self, frames, needs=frozenset(), method=None):
        encoded.append(needs)
        return stock(self, frames, needs, method)

    monkeypatch.setattr(LoadedModel, "encode", noting)
    clip = video_clips()[0]
    timed = list(time_arms(mllm, questions([clip]), warm_up=0))
    assert len(encoded) == len(timed) == len(ARMS) * len(clip.samples)
    assert encoded == [ARMS[each.arm].needs() for each in timed]


def test_the_order_is_drawn_anew_for_each_question(mllm):
    asked = questions(video_clips())
    orders = {tuple(timed.arm for timed in time_arms(mllm, asked, seed, warm_up=0)) for seed in (0, 0, 1)}
    assert len(orders) == 2
    order = orders.pop()
    each = [order[start : start + len(ARMS)] for start in range(0, len(order), len(ARMS))]
    assert len(set(each)) > 1


def test_what_cannot_be_answered_has_no_times(mllm):
    clip = video_clips()[0]
    empty = replace(clip, samples=(replace(clip.samples[0], question=" "),))
    (timed,) = time_arms(mllm, questions([empty], {"full": Pipeline()}))
    assert timed.answer.error == "the question is empty"


def test_batches_are_of_copies_of_the_prompt(mllm, monkeypatch):
    sizes, generate = [], LoadedModel.generate

    def counting(self, requests):
        sizes.append(len(requests))
        if len(requests) == 8:
            raise torch.OutOfMemoryError("no room")
        return generate(self, requests)

    monkeypatch.setattr(LoadedModel, "generate", counting)
    clip = video_clips()[0]
    arms = {"topic": ARMS["topic"]}
    (timed, *_) = time_arms(mllm, questions([replace(clip, samples=clip.samples[:1])], arms), batch_sizes=(2, 4, 8, 16))
    assert sizes == [1, 1, 2, 4, 8]  # one to warm up; what does not fit ends the list
    assert [size for size, _ in timed.in_batches] == [2, 4]
    assert all(milliseconds > 0 for _, milliseconds in timed.in_batches)
