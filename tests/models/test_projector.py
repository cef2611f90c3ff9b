"""Merging before a projector that takes tokens one by one; everywhere else the same reduction on the token grid."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from tests.models.harness import Harness, settings
from tokenlab.compressors import REGISTRY, Pipeline
from tokenlab.compressors.evidence import ProjectorInput, TokenEmbeddings
from tokenlab.compressors.stages import GridReduction, GridView
from tokenlab.data.samples import Frames
from tokenlab.models.costs.flops import ModelCosts
from tokenlab.models.costs.price import price
from tokenlab.models.counter import flop_counter
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.models.families import FAMILIES
from tokenlab.models.families.support import why_unsupported
from tokenlab.models.mllm import LoadedModel
from tokenlab.reduction import Reduction
from tokenlab.testing import ANSWER_TOKENS
from tokenlab.testing.media import noise_image, video_clips

READ = ProjectorInput()
TOKEN_WISE = {name for name, family in FAMILIES.items() if family.projector}


@dataclass(frozen=True, kw_only=True)
class Pairs(GridReduction):
    """Keeps every third token, and sums up the two behind it in one; without matrix products, which are not counted."""

    name: ClassVar[str] = "pairs"
    merges_before_projector: ClassVar[bool] = True

    def reduce_grid(self, view: GridView) -> Reduction:
        tokens = view.tokens.num_tokens
        kept = torch.arange(0, tokens - 2, 3)
        slots = torch.arange(len(kept))
        return Reduction.merge(
            anchor=torch.stack([kept, kept + 1], dim=1).flatten(),
            slot=torch.cat([2 * slots + 1, 2 * slots + 1]),
            member=torch.cat([kept + 1, kept + 2]),
            weight=torch.ones(2 * len(kept)),
            num_inputs=tokens,
        )


@dataclass(frozen=True, kw_only=True)
class PairsOnGrid(Pairs):
    """The same, merged behind the projector."""

    name: ClassVar[str] = "pairs_on_grid"
    merges_before_projector: ClassVar[bool] = False


PAIRS, ON_GRID = (Pipeline((method(retention_ratio=0.66),)) for method in (Pairs, PairsOnGrid))
TEXT = REGISTRY["text"](retention_ratio=0.5)
SEVERAL = {
    "pairs": PAIRS,
    "pairs, renumbered": Pipeline((Pairs(retention_ratio=0.66, positions="renumber"),)),
    "merged in time first": Pipeline((REGISTRY["similarity"](retention_ratio=0.5), *PAIRS.compressors)),
    "pairs, then what is like the question": Pipeline((*PAIRS.compressors, TEXT)),
    "in the tower first": Pipeline((REGISTRY["tome"](retention_ratio=0.5), *PAIRS.compressors)),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_equals_the_reference(harness: Harness, name):
    """Which merges and projects token by token."""
    pipeline = SEVERAL[name]
    if any(why_unsupported(harness.family, compressor) for compressor in pipeline.compressors):
        pytest.skip("this family cannot have it")
    expected = {
        sample.uid: tuple(harness.reference.reduced([*clip.media, sample.question], sample, pipeline, ANSWER_TOKENS))
        for clip in harness.clips
        for sample in clip.samples
    }
    assert harness.ask(pipeline) == harness.ask(pipeline, batch_size=4) == expected


def test_differs_from_the_grid_where_the_projector_is_token_wise(harness: Harness):
    differs = harness.ask(PAIRS) != harness.ask(ON_GRID)
    assert differs == (harness.loaded.config.model_type in TOKEN_WISE)


@pytest.mark.parametrize("frames", [video_clips()[0].media[0], noise_image(1, 60, 110), noise_image(2, 64, 64)])
def test_the_projector_makes_every_token_of_what_it_reads(projecting: LoadedModel, frames: Frames):
    """On the grid, mosaics of tiles included."""
    if projecting.family.video is None and not frames.is_image:
        pytest.skip("it reads no videos")
    tokens = projecting.encode(frames, frozenset({READ})).tokens
    projector = projecting.family.projector_of(projecting.model)
    with torch.inference_mode():
        assert torch.allclose(projector(tokens.evidence[READ]), tokens.values, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module", params=sorted(TOKEN_WISE))
def projecting(request, checkpoints) -> LoadedModel:
    return LoadedModel.load(settings(checkpoints[request.param]))


def test_kept_tokens_keep_their_bits_and_merged_ones_are_projected(harness: Harness):
    mllm, clip = harness.loaded, harness.clips[0]
    needs = PAIRS.needs() | {TokenEmbeddings("llm")}
    encodings = EncodeCache(needs)
    request = mllm.prepare(clip, clip.samples[0], PAIRS, encodings)
    (left,), (applied,) = request.prompt.media, request.trace.reductions
    values, composed, tokens = left.values, applied.reduction, request.prompt.encoded[0].tokens
    kept = composed.lengths == 0
    assert torch.equal(values[kept], tokens.values[composed.anchor[kept]])
    if (projector := mllm.family.projector_of(mllm.model)) is None:
        assert READ not in tokens.evidence
        assert torch.equal(values, composed.apply(tokens.values))
        return
    pairs = composed.member.reshape(-1, 2)
    with torch.inference_mode():
        summed = projector(tokens.evidence[READ][pairs[:, 0]] + tokens.evidence[READ][pairs[:, 1]])
    assert torch.allclose(values[~kept], summed, rtol=1e-5, atol=1e-5)


def test_flops_equal_the_counter(harness: Harness):
    """What is merged is projected besides all patches, which other arms read."""
    mllm = harness.loaded
    costs = ModelCosts(mllm.config, mllm.family)
    for clip in harness.clips:
        with flop_counter() as encoding:
            request = mllm.prepare(clip, clip.samples[0], PAIRS, EncodeCache(PAIRS.needs()))
        priced = price(request.trace, costs)
        assert priced.tower + priced.projector == encoding.get_total_flops()
        assert (request.trace.projector_tokens > 0) == (mllm.config.model_type in TOKEN_WISE)


def test_what_other_arms_look_at_does_not_ride_along(harness: Harness):
    """Nor does it change an answer."""
    mllm, clip = harness.loaded, harness.clips[0]
    random = Pipeline((REGISTRY["random"](retention_ratio=0.5), REGISTRY["fastv"](retention_ratio=0.5)))
    encodings = EncodeCache(PAIRS.needs() | REGISTRY["visionzip"](retention_ratio=0.5).needs())
    request = mllm.prepare(clip, clip.samples[0], random, encodings)
    assert request.prompt.encoded[0].tokens.evidence
    assert not request.prompt.media[0].evidence
    alone = mllm.prepare(clip, clip.samples[0], random, EncodeCache(frozenset()))
    assert mllm.generate([request])[0].ids == mllm.generate([alone])[0].ids


def test_what_is_merged_on_the_grid_is_said(capsys):
    from tokenlab.cli import main

    for name in FAMILIES:
        main(["models", name])
        assert ("merges on the token grid" in capsys.readouterr().out) == (name not in TOKEN_WISE)
