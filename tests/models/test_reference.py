"""Answers of reduced prompts equal those of a reference that edits by hand."""

import pytest

from tests.models.pipelines import PIPELINES, SUBSET, build, possible, tiers
from tokenlab.testing import ANSWER_TOKENS


@pytest.mark.parametrize(("harness", "name"), tiers(PIPELINES, SUBSET), indirect=["harness"])
def test_reduced_equals_the_reference(harness, baseline, name):
    pipeline = build(PIPELINES[name])
    if not possible(harness.family, {name: pipeline}):
        pytest.skip("this family cannot have it")
    expected = {
        sample.uid: tuple(harness.reference.reduced([frames, sample.question], sample, pipeline, ANSWER_TOKENS))
        for frames, sample in harness.samples()
    }
    assert harness.ask(pipeline) == expected
    assert harness.ask(pipeline, batch_size=4) == expected
    assert harness.ask(pipeline, clips=harness.clips[::-1], batch_size=9) == expected


def test_answers_do_change_when_tokens_go(harness, baseline):
    """Otherwise the tests above would prove nothing."""
    pipelines = possible(harness.family, {name: build(PIPELINES[name]) for name in SUBSET})
    changed = {name: harness.ask(pipeline) != baseline for name, pipeline in pipelines.items()}
    assert all(changed.values()), changed
