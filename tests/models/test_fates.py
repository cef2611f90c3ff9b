"""What became of each token, as pictures and sidecars show it, against what the LLM read."""

import pytest
import torch

from tests.models.pipelines import PIPELINES, build, possible
from tokenlab.compressors import Pipeline
from tokenlab.models.encode_cache import EncodeCache
from tokenlab.trace import DROPPED, GATHERED, KEPT, MERGED

SOME = ("topic", "visionzip", "tome", "joint", "backwards", "pairing, then fastv, then the cache", "two in the layers")


@pytest.mark.parametrize("name", [*SOME, "tower, grid, layers", "frames then grid", "vanishing"])
def test_fates_are_those_of_what_is_left(harness, name):
    pipelines = possible(harness.family, {name: build(PIPELINES[name])})
    if not pipelines:
        pytest.skip("the family has no such method")
    for answer in harness.answers(pipelines[name]):
        trace = answer.trace
        for number, medium in enumerate(trace.media):
            fates, left = trace.fates(number), trace.left[number]
            assert len(fates) == sum(rows * columns for rows, columns in medium.shapes) == left.num_inputs
            standing = {place for place, fate in enumerate(fates) if fate in KEPT + GATHERED}
            assert standing == set(left.anchor.tolist())
            assert {place for place, fate in enumerate(fates) if fate == DROPPED}.isdisjoint(left.member.tolist())
            assert set(fates) <= {KEPT, GATHERED, MERGED, DROPPED}
        if not any(applied.drops_separators for applied in trace.reductions):
            separators = sum(medium.separators for medium in trace.media)
            assert sum(left.num_outputs for left in trace.left) == trace.visual_tokens_out - separators


def test_before_the_llm_the_anchors_are_the_prompts(harness):
    """The reduction as one, in the order of the sequence: rank order and runs of frames included."""
    for name in ("topic", "visionzip", "joint", "backwards"):
        for pipeline in possible(harness.family, {name: build(PIPELINES[name])}).values():
            for clip in harness.clips:
                prompt = harness.prepare(clip, pipeline).prompt
                medium, origin = prompt.layout.prompt.media[0], prompt.layout.origin[prompt.layout.visual(0)]
                assert torch.equal(medium.visual[prompt.totals[0].anchor], origin)


def test_the_untouched_model_keeps_all(harness):
    for answer in harness.answers(Pipeline()):
        assert set(answer.trace.fates(0)) == {KEPT}


def test_tokens_lie_on_their_frames_in_raster_order(media_harness):
    for clip in media_harness.clips:
        for number, frames in enumerate(clip.media or ()):
            encoded = EncodeCache(frozenset()).encode(media_harness.loaded, clip, number, frames, Pipeline())
            places = encoded.processed.places
            raster = [
                (frame, row, column)
                for frame, (rows, columns) in enumerate(encoded.processed.frame_shapes)
                for row in range(rows)
                for column in range(columns)
            ]
            assert places[places[:, 0] >= 0].tolist() == [list(place) for place in raster]
