"""Images of any resolution and in tiles: budgets of what lies on the grid, time that is none, noise of their own."""

from pathlib import Path

import pytest

from tests.models.harness import settings
from tokenlab.compressors import REGISTRY, GridReduction, Pipeline
from tokenlab.data.media.image import read_image
from tokenlab.data.samples import Clip, Sample
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families.support import why_unsupported
from tokenlab.models.mllm import LoadedModel
from tokenlab.testing.media import noise_image

TALL = Path(__file__).parents[1] / "data" / "media" / "files" / "tall.png"
ON_GRID = sorted(name for name, method in REGISTRY.items() if issubclass(method, GridReduction))
TILED = ("llava_next", "llava_onevision", "internvl", "smolvlm")


@pytest.fixture(scope="module", params=TILED)
def loaded(request, checkpoints) -> LoadedModel:
    return LoadedModel.load(settings(str(checkpoints[request.param])))


def trace_of(loaded: LoadedModel, pipeline: Pipeline, *images):
    content = (*range(len(images)), "what is there ?")
    clip = Clip("i", (Sample("i#0", "i", "what is there ?", content=content),), images)
    return loaded.prepare(clip, clip.samples[0], pipeline, EncodeCache(pipeline.needs())).trace


@pytest.mark.parametrize("name", ["random", "topic", "text"])
@pytest.mark.parametrize(("ratio", "left"), [(0.5, 54), (0.25, 33), (0.1, 20)])
def test_a_ratio_is_of_the_tokens_on_the_grid(checkpoints, name, ratio, left):
    """Of 96 tokens 84 are on the grid, 36 of the whole image and 48 of its tiles; the 12 newlines stay."""
    loaded = LoadedModel.load(settings(str(checkpoints["llava_next"])))
    trace = trace_of(loaded, Pipeline((REGISTRY[name](retention_ratio=ratio),)), read_image(TALL))
    assert (trace.visual_tokens_in, trace.visual_tokens_out) == (96, left)


@pytest.mark.parametrize("name", ON_GRID)
def test_every_method_on_the_grid_takes_an_image(loaded, name):
    method = REGISTRY[name].example()
    if why_unsupported(loaded.family, method):
        pytest.skip("this family cannot have it")
    trace = trace_of(loaded, Pipeline((method,)), noise_image(1, 200, 60))
    (step,) = trace.reductions
    if method.temporal:
        assert step.reduction.is_identity
        assert trace.visual_tokens_out == trace.visual_tokens_in
    elif method.budget_unit == "none":
        assert (name != "blind") <= step.reduction.num_outputs <= trace.visual_tokens_in
    else:
        assert 0.3 * trace.visual_tokens_in < step.reduction.num_outputs <= 0.5 * trace.visual_tokens_in + 1


def test_two_images_draw_different_noise(loaded):
    image = noise_image(1, 64, 64)
    one, other = trace_of(loaded, Pipeline((REGISTRY["random"](retention_ratio=0.5),)), image, image).reductions
    assert one.reduction.anchor.tolist() != other.reduction.anchor.tolist()


def test_withdrawn_images_take_their_newlines_along(loaded):
    trace = trace_of(loaded, Pipeline((REGISTRY["vtw"](),)), read_image(TALL))
    assert trace.visual_tokens_out == trace.visual_tokens_in  # nothing goes before the LLM
    clip = Clip("i", (Sample("i#0", "i", "what is there ?"),), (read_image(TALL),))
    pipeline = Pipeline((REGISTRY["vtw"](),))
    request = loaded.prepare(clip, clip.samples[0], pipeline, EncodeCache(frozenset()))
    (answer,) = loaded.generate([request])
    assert answer.trace.visual_tokens_out == 0
    text = len(request.prompt.layout.prompt.run) - trace.visual_tokens_in
    assert answer.trace.attention_tokens[-1] <= text  # tags of tiles go, too
