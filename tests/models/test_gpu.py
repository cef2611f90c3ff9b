"""What only a GPU can show; skipped where there is none."""

import pytest
import torch

from tests.models.pipelines import PIPELINES, build
from tokenlab.compressors import Pipeline
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.latency import time_arms
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.request import Answer
from tokenlab.models.settings import MLLM
from tokenlab.testing.media import video_clips
from tokenlab.testing.stubs import KeepAll

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture(scope="module", params=["llava", "qwen3_vl"])
def mllm(request, checkpoints) -> LoadedModel:
    settings = MLLM(checkpoint=str(checkpoints[request.param]), max_new_tokens=4, batch_size=4)
    return LoadedModel.load(settings).to(torch.device("cuda"))


def ask(mllm: LoadedModel, pipeline: Pipeline) -> list[Answer]:
    return list(mllm.answer(video_clips(), pipeline, EncodeCache(pipeline.needs())))


def test_keep_all_through_the_full_path(mllm):
    kept, full = ask(mllm, Pipeline((KeepAll(),))), ask(mllm, Pipeline())
    assert [answer.ids for answer in kept] == [answer.ids for answer in full]


@pytest.mark.parametrize("name", ["joint", "merge, pool, prune"])
def test_reductions_are_the_same_on_every_run(mllm, name):
    first, again = ask(mllm, build(PIPELINES[name])), ask(mllm, build(PIPELINES[name]))
    assert [answer.ids for answer in first] == [answer.ids for answer in again]


def test_peak_memory_is_measured(mllm):
    clip = video_clips()[0]
    (timed,) = time_arms(mllm, [(clip, clip.samples[0], {"full": Pipeline()})])
    assert timed.peak_memory_bytes > 0
