"""Everything is where it belongs: models whose blocks lie on two devices in turn answer as they do on the CPU."""

import warnings
from dataclasses import replace

import pytest
import torch

from tests.fake_devices import FIRST, SECOND, Elsewhere, devices, spread
from tests.models.conftest import by_tier
from tests.models.pipelines import PIPELINES, build
from tests.models.prompts import WIDE
from tests.models.test_projector import PAIRS
from tokenlab.compressors import Pipeline
from tokenlab.data.samples import Clip, Sample
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families import FAMILIES
from tokenlab.models.families.support import why_unsupported
from tokenlab.models.mllm import LoadedModel
from tokenlab.models.scoring import score
from tokenlab.models.settings import MLLM
from tokenlab.testing.media import noise_image, video_clips
from tokenlab.testing.stubs import KEEPING

TALL = noise_image(2, 110, 60)  # where a mosaic is one tile, that is the small picture again, and methods meet ties
ASKED = {
    "full": Pipeline(),
    **{name: KEEPING[name] for name in ("tower", "layers and cache, renumbered")},
    **{name: build(PIPELINES[name]) for name in ("joint other", "two in the layers", "tower, grid, layers")},
    "pairs, layers, cache": Pipeline((*PAIRS.compressors, *build(PIPELINES["grid, layers, cache"]).compressors[1:])),
}
"""Every stage; decisions made on the CPU; evidence from the tower, of the question and from the LLM's layers."""


def loaded(folder: str) -> LoadedModel:
    return LoadedModel.load(MLLM(checkpoint=folder, max_new_tokens=2, batch_size=4))


def clips(mllm: LoadedModel) -> list[Clip]:
    """Images, and where the family reads them videos, one of a single frame; one question each."""
    asked = Sample("i#0", "i", "is it the same ?", content=(0, "like", 1, "is it the same ?"))
    videos = [Clip(clip.cluster, clip.samples[:1], clip.media) for clip in video_clips()[:2]]
    return [*(videos if mllm.family.video else []), Clip("i", (asked,), (WIDE, TALL))]


def possible(mllm: LoadedModel) -> dict[str, Pipeline]:
    """Those that the family can have; on images alone, those that need no whole frames."""
    pipelines = {
        n: p for n, p in ASKED.items() if not any(why_unsupported(mllm.family, method) for method in p.compressors)
    }
    assert len(pipelines) >= 4
    return pipelines


def answered(mllm: LoadedModel, pipeline: Pipeline) -> list[tuple]:
    answers = mllm.answer(clips(mllm), pipeline, EncodeCache(pipeline.needs()))
    return [(answer.sample.uid, answer.ids, answer.error) for answer in answers]


@pytest.mark.parametrize("family", by_tier(FAMILIES, daily=()))
def test_spread_over_two_devices(checkpoints, family):
    mllm = loaded(str(checkpoints[family]))
    expected = {name: answered(mllm, pipeline) for name, pipeline in possible(mllm).items()}
    assert any(ids for _, ids, _ in expected["two in the layers"])
    reading = mllm.family.video or mllm.family.image
    blocks = [*mllm.family.blocks_of(mllm.model, reading), *mllm.model.model.get_decoder().layers]
    with devices(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The following device_map keys do not match")
        mllm = replace(mllm, model=spread(mllm.model, blocks))
        assert {parameter.device for parameter in mllm.model.parameters()} == {FIRST, SECOND}
        assert {name: answered(mllm, pipeline) for name, pipeline in possible(mllm).items()} == expected
        clip = clips(mllm)[-1]
        request = mllm.prepare(clip, clip.samples[0], PAIRS, EncodeCache(PAIRS.needs()))
        assert all(value < 0 for value in score(mllm, request, ("red circle", "blue")).log_likelihoods)


def test_the_devices_refuse_to_be_mixed():
    """Otherwise the test above would prove nothing."""
    with devices():
        here, there, cpu = torch.ones(3).to(FIRST), torch.ones(3).to(SECOND), torch.ones(3)
        assert isinstance(here, Elsewhere)
        assert (here.device, (here * 2).device, here.cpu().device) == (FIRST, FIRST, cpu.device)
        for one, other in ((here, there), (here, cpu), (cpu, there)):
            with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
                one + other
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            cpu[torch.tensor([0]).to(FIRST)]
        assert here[torch.tensor([0])].tolist() == [1.0]
        with pytest.raises(TypeError, match="no numpy array"):
            here.numpy()
        assert torch.equal((here + 1).cpu(), cpu + 1)
